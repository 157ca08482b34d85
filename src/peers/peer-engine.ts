/** The real parts of a peer's engine: the caller's device, a model from wherever it is to be had, EXEC's run of it. */
import { PeerError } from "../errors.ts";
import { describeAdapter } from "../gpu/device.ts";
import { loadModel } from "../model/load-model.ts";
import { internalsOf } from "../model/model.ts";
import { openRank } from "../model/rank-run.ts";
import { openModelSource } from "../model/sources.ts";
import type { LoadOptions, Model, ModelFiles, ModelSource } from "../model/types.ts";
import type { EngineParts } from "./engine.ts";
import type { PeerOptions } from "./peer-options.ts";
import type { PeerModelDescription } from "./types.ts";
import { modelFingerprint } from "./weights-manifest.ts";

/** What others can open themselves: an id of the hub, or an address. */
const publicSource = (source: ModelSource | undefined): string | undefined =>
  typeof source === "string" ? source : source instanceof URL ? source.href : undefined;

/** An address that only this machine can reach helps nobody else. */
function isReachable(source: string): boolean {
  try {
    return !/^(localhost|127\.|\[::1\])/.test(new URL(source).host);
  } catch {
    return !/^[./]/.test(source);
  }
}

/** The parts, from a peer's options. */
export function peerEngine(options: PeerOptions): EngineParts {
  const { requestDevice, source, token, weightDtype } = options;

  /** The model's files: this peer's own, the leader's, or from the peers; the first that are the model wanted. */
  async function* candidates(
    wanted: PeerModelDescription | undefined,
    fromPeers: (name: string) => ModelFiles,
  ): AsyncGenerator<{ open: () => Promise<ModelFiles>; isPeers: boolean }> {
    if (source !== undefined)
      yield { open: () => openModelSource(source, token === undefined ? {} : { token }), isPeers: false };
    if (!wanted) return;
    const named = wanted.source;
    if (named !== undefined && source === undefined)
      yield { open: () => openModelSource(named, token === undefined ? {} : { token }), isPeers: false };
    yield { open: async () => fromPeers(wanted.name), isPeers: true };
  }

  return {
    requestDevice,
    async loadModel(wanted, { device, signal, onProgress, weights }) {
      let last: unknown;
      for await (const { open, isPeers } of candidates(wanted, (name) => weights.files(name))) {
        try {
          const files = await open();
          const fingerprint = await modelFingerprint(files, signal);
          if (wanted && wanted.fingerprint !== fingerprint)
            throw new PeerError(
              `createPeer: expected the ring's model ${wanted.name} (${wanted.fingerprint.slice(0, 12)}), got another one from ${files.name} (${fingerprint.slice(0, 12)})`,
            );
          const load: LoadOptions = { device, signal, onProgress };
          if (token !== undefined) load.token = token;
          if (weightDtype !== undefined) load.weightDtype = weightDtype;
          const model = await loadModel(files, load);
          if (!isPeers) weights.serve(files);
          const named = wanted?.source ?? publicSource(source);
          const description: PeerModelDescription = { name: files.name, fingerprint };
          if (named !== undefined && isReachable(named)) description.source = named;
          return { model, fingerprint, description: wanted ?? description };
        } catch (error) {
          signal.throwIfAborted();
          last = error;
        }
      }
      throw last;
    },
    openRank: (model: Model) => openRank(model),
    promptsOf: (model) => internalsOf(model).prompts,
    adapterName: (device) => describeAdapter(device).name,
  };
}
