/** `ringwise generate --peers N`: starts a whole ring of peers on this machine, generates with it, and ends it. */
import type { Prompt, RingLayout, WireDtype } from "../index.ts";
import { UsageError } from "./errors.ts";
import { sayLoad, throttled } from "./job-progress.ts";
import { placeOf } from "./model-place.ts";
import { sayEvent } from "./peer-job.ts";
import { openRing, type RingLink } from "./peer-ring.ts";
import { formatPeerRing } from "./peer-table.ts";
import { formatSpeed } from "./ring-table.ts";
import { chromeAdapter } from "./shared-options.ts";
import type { Terminal } from "./terminal.ts";

/** The flags that matter here. */
export interface PeerFlags {
  model?: string;
  peers: number;
  link?: RingLink;
  wire?: WireDtype;
  replicas?: number;
  bos: boolean;
  maxNewTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  worldSize: number;
  layout: RingLayout;
  kv: string;
  attention: string;
  runtime: string;
  adapter?: string;
  json?: boolean;
}

function refuse(flags: PeerFlags): void {
  const no = (flag: string, why: string) => {
    throw new UsageError(`generate --peers: ${flag} ${why}`);
  };
  if (flags.worldSize > 1)
    no("--world-size", "is for a ring inside of one device; --peers says how many ranks there are");
  if (flags.attention !== "ring") no(`--attention ${flags.attention}`, "does not run over peers; only ring does");
  if (flags.kv !== "gpu") no("--kv host", "does not run over peers: their blocks live in GPU memory");
  if (flags.runtime !== "chrome") no("--runtime node", "is for one device; --link node puts peers into Node");
}

/** What makes sense with `--peers` only. @throws {UsageError} where it is given without. */
export function refuseWithoutPeers(flags: { link?: string; wire?: string; replicas?: number }): void {
  for (const name of ["link", "wire", "replicas"] as const)
    if (flags[name] !== undefined)
      throw new UsageError(`generate: --${name} is for a ring of peers; say --peers N too`);
}

/** Runs the command. @throws {UsageError} for options that peers do not have. */
export async function generateWithPeers(prompt: Prompt, flags: PeerFlags, terminal: Terminal): Promise<void> {
  refuse(flags);
  const link = flags.link ?? "worker";
  const isNodeAdapter = link === "node" && flags.adapter !== "swiftshader" && flags.adapter !== "default";
  const progress = throttled(terminal.progress);
  // One peer's word of what all of them see; after the leader has gone another one's.
  let leaderName: string | undefined;
  const ring = await openRing({
    peers: flags.peers,
    link,
    model: placeOf(flags.model),
    token: process.env.HF_TOKEN,
    adapter: isNodeAdapter ? undefined : chromeAdapter(flags.adapter),
    nodeAdapter: flags.adapter,
    log: terminal.log,
    onEvent: (member, event) => {
      leaderName ??= member.name;
      if (event.type === "load") progress(`${member.name}: ${sayLoad(event.progress)}`);
      const said = member.name === leaderName ? sayEvent(event) : undefined;
      if (said) terminal.log(said);
    },
    onJobEvent: (event) => (event.type === "piece" ? terminal.write(event.text) : terminal.progress(event.message)),
  });
  try {
    const { wire, replicas, bos, maxNewTokens, temperature, topP, topK, seed, layout } = flags;
    const result = await ring.generate({
      ...{ prompt, addBos: bos, maxNewTokens, temperature, topP, topK, seed, layout },
      wireDtype: wire,
      replicas: replicas === 1 ? 1 : 0,
    });
    terminal.write("\n");
    if (!flags.json) terminal.log(`${formatSpeed(result)}\n${formatPeerRing(result.ring)}`);
    terminal.result({ runtime: link === "node" ? "chrome+node" : "chrome", link, ...result }, "");
  } finally {
    await ring.close();
  }
}
