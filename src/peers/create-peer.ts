/** `createPeer`: one GPU, one model, links to the others; together a ring that computes one context. */
import { OptionError, PeerError } from "../errors.ts";
import { createLink, platformClock } from "../link/link.ts";
import type { Wire } from "../link/types.ts";
import { checkPrompt, checkRunOptions, isChat, promptIds } from "../model/generate.ts";
import type { GeneratedPiece, Model, Prompt } from "../model/types.ts";
import { describeValue, expectInteger, expectOneOf } from "../shape.ts";
import { PeerCore } from "./core.ts";
import type { OpenEngine } from "./engine.ts";
import type { RunInfo } from "./messages.ts";
import { peerEngine } from "./peer-engine.ts";
import type { PeerOptions, PeerSeams } from "./peer-options.ts";
import type { Peer, PeerGenerateOptions, PeerGenerateStatistics, PeerGeneration, PeerStatus } from "./types.ts";

/** K/V memory that a peer offers, unless it says otherwise. */
const MEMORY_BYTES = 2 ** 30;
/** Most tokens per rank and operation of prefill; what `openRank` takes at most. */
const CHUNK_TOKENS = 512;

/**
 * Makes a peer of a ring. It loads its model at once where it leads the room, else when the leader has let it in; hand it
 * wires with `connect` as the room finds other peers.
 * @throws {OptionError} for options that do not fit.
 */
export function createPeer(options: PeerOptions): Peer {
  return createPeerWith(options, {});
}

/** {@link createPeer}, with a clock and an engine of the caller's. @throws {OptionError} for options that do not fit. */
export function createPeerWith(options: PeerOptions, seams: PeerSeams): Peer {
  for (const name of ["id", "name"] as const)
    if (typeof options?.[name] !== "string" || options[name].length === 0 || options[name].length > 200)
      throw new OptionError(
        `createPeer: expected ${name} to be text of 1 to 200 characters, got ${describeValue(options?.[name])}`,
      );
  if (typeof options.requestDevice !== "function")
    throw new OptionError(
      `createPeer: expected requestDevice to be a function that resolves with a GPUDevice, got ${describeValue(options.requestDevice)}`,
    );
  if (options.isLeader && options.source === undefined && !seams.engine)
    throw new OptionError("createPeer: expected a source of the model for the peer that leads, got none");
  return new RingPeer(options, seams);
}

class RingPeer implements Peer {
  private readonly core: PeerCore;

  constructor(options: PeerOptions, seams: PeerSeams) {
    const clock = seams.clock ?? platformClock;
    const engine = seams.engine ?? peerEngine(options);
    this.core = new PeerCore({
      id: options.id,
      name: options.name,
      isLeader: options.isLeader ?? false,
      memoryBytes: expectInteger("createPeer", "memoryBytes", options.memoryBytes ?? MEMORY_BYTES),
      admitAll: expectOneOf("createPeer", "admit", options.admit ?? "ask", ["all", "ask"]) === "all",
      clock,
      engine,
      openLink: (peerId, wires) =>
        createLink({ selfId: options.id, peerId, wires, ...(seams.clock && { clock: seams.clock }) }),
      onEvent: (event) => options.onEvent?.(event),
      onReconnect: (peerId) => options.onReconnect?.(peerId),
      onBan: (peerId) => options.onBan?.(peerId),
    });
  }

  get id(): string {
    return this.core.id;
  }

  get isLeader(): boolean {
    return this.core.leading !== undefined;
  }

  get peers(): readonly PeerStatus[] {
    return this.core.peers();
  }

  get model(): Model | undefined {
    return this.core.engine.open?.model;
  }

  get admitAll(): boolean {
    return this.core.admitAll;
  }

  set admitAll(value: boolean) {
    this.core.admitAll = value;
  }

  connect(peerId: string, wires: readonly Wire[]): void {
    if (this.core.closedReason === undefined && peerId !== this.id) this.core.members.connect(peerId, wires);
    else for (const wire of wires) wire.close();
  }

  disconnect(peerId: string, reason: string): void {
    const member = this.core.members.get(peerId);
    if (member) this.core.members.gone(member, reason);
  }

  admit(peerId: string): void {
    this.leading("admit").admit(peerId);
  }

  remove(peerId: string, reason = "The leader sent it away."): void {
    this.leading("remove").remove(peerId, reason.slice(0, 500));
  }

  ready(count: number, signal?: AbortSignal): Promise<void> {
    expectInteger("ready", "count", count, 1, 64);
    const { core } = this;
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        unwatch();
        signal?.removeEventListener("abort", look);
        act();
      };
      const look = () => {
        if (signal?.aborted) return settle(() => reject(signal.reason));
        const { closedReason } = core;
        if (closedReason !== undefined)
          return settle(() =>
            reject(new PeerError(`ready: expected a peer that takes part, got one that has left: ${closedReason}`)),
          );
        const isReady = ({ state, isSelf }: PeerStatus) =>
          (state === "ready" || state === "working") && (!isSelf || core.engine.open !== undefined);
        if (core.peers().filter(isReady).length >= count) settle(resolve);
      };
      const unwatch = core.watch(look);
      signal?.addEventListener("abort", look);
      look();
    });
  }

  generate(prompt: Prompt, options: PeerGenerateOptions = {}): PeerGeneration {
    const { core } = this;
    const leader = this.leading("generate");
    const open = core.engine.open;
    if (!open) throw new PeerError("generate: expected the model to be there, got a peer that is still loading");
    const run = checkRunOptions(options, open.prompts);
    checkPrompt(prompt, open.prompts);
    const layout = expectOneOf("generate", "layout", options.layout ?? "zigzag", ["contiguous", "zigzag", "striped"]);
    const wireDtype = expectOneOf("generate", "wireDtype", options.wireDtype ?? "f32", ["f32", "f16"]);
    const replicas = expectInteger("generate", "replicas", options.replicas ?? 0, 0, 1);
    let statistics: PeerGenerateStatistics | undefined;
    let isTaken = false;
    const info: Omit<RunInfo, "promptLength"> = {
      id: `${core.id.slice(0, 50)} ${crypto.randomUUID()}`,
      startedBy: core.id,
      maxNewTokens: run.maxNewTokens,
      temperature: run.temperature,
      topP: run.topP,
      topK: run.topK,
      seed: run.seed,
      stopIds: [...run.stopIds],
      chunkTokens: Math.min(run.prefillChunkSize, CHUNK_TOKENS),
      layout,
      wireDtype,
      replicas,
      isContinuation: !isChat(prompt),
    };
    const iterator = this.iterate(prompt, run.addBos, open, info, options.signal, (figures) => {
      statistics = figures;
    });
    return {
      get statistics() {
        return statistics ?? leader.emptyStatistics({ ...info, promptLength: 1 });
      },
      [Symbol.asyncIterator]() {
        if (isTaken)
          throw new OptionError(
            "generate: expected one iteration over a generation, got a second one: call generate again for another run",
          );
        isTaken = true;
        return iterator;
      },
    };
  }

  stop(): void {
    const { core } = this;
    if (core.leading) core.leading.finish({ stopReason: "aborted", message: "The run was stopped." });
    else if (core.epoch) core.send(core.epoch.leaderId, { type: "stop" });
  }

  async leave(reason = "left"): Promise<void> {
    this.core.close(reason);
    // What was sent a moment ago leaves before whoever called goes on to close the page.
    await Promise.resolve();
  }

  private leading(where: string) {
    const { leading, closedReason } = this.core;
    if (leading) return leading;
    throw new PeerError(
      closedReason === undefined
        ? `${where}: expected the peer that leads the ring, got one that follows`
        : `${where}: expected a peer that takes part, got one that has left: ${closedReason}`,
    );
  }

  private async *iterate(
    prompt: Prompt,
    addBos: boolean,
    { prompts }: OpenEngine,
    options: Omit<RunInfo, "promptLength">,
    signal: AbortSignal | undefined,
    onStart: (statistics: PeerGenerateStatistics) => void,
  ): AsyncGenerator<GeneratedPiece, void, undefined> {
    const { core } = this;
    signal?.throwIfAborted();
    const ids = await promptIds(prompt, addBos, prompts);
    signal?.throwIfAborted();
    const leader = this.leading("generate");
    if (core.answer && !core.answer.end)
      throw new PeerError("generate: expected an idle ring, got a run in progress: finish it or abort it first");
    const answer = core.newAnswer({ ...options, promptLength: ids.length });
    core.answer = answer;
    answer.extend(0, ids);
    onStart(leader.begin(answer));
    const stop = () => this.stop();
    signal?.addEventListener("abort", stop, { once: true });
    try {
      for await (const piece of answer.iterate()) {
        yield piece;
        signal?.throwIfAborted();
      }
      if (answer.end?.stopReason === "aborted") {
        signal?.throwIfAborted();
        throw new PeerError(`generate: expected the run to go on to its end, got it stopped: ${answer.end.message}`);
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      if (!answer.end) this.stop();
    }
  }
}
