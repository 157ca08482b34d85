/**
 * One run of `generate` over a ring of peers, and what the command line and the pages it drives say to each other about it:
 * the same code in a page's engine worker and in Node.
 */
import type { Peer, PeerEvent, PeerGenerateStatistics, PeerStatus, Prompt, RingLayout, WireDtype } from "../index.ts";
import { gatherAnswer, type JobEvent, sayPrefill, throttled } from "./job-progress.ts";

/** What to generate; plain data, so that it can be sent into a page. */
export interface PeerJob {
  prompt: Prompt;
  addBos?: boolean;
  maxNewTokens: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  seed?: number;
  layout?: RingLayout;
  wireDtype?: WireDtype;
  replicas?: 0 | 1;
  prefillChunkSize?: number;
}

/** What `ringwise generate --peers N --json` prints. */
export interface PeerResult extends Omit<PeerGenerateStatistics, "newTokens"> {
  model: string;
  adapter: string;
  /** The new tokens' ids, without the prompt's. */
  tokenIds: number[];
  /** The new tokens' text. */
  text: string;
}

/** One answer as a peer has heard it, whoever led: what a survivor can say of a run whose leader is gone. */
export interface HeardAnswer {
  tokenIds: number[];
  text: string;
  /** Once it has ended. */
  end?: { stopReason: string; message: string };
}

/** A peer asked how it is. */
export interface PeerReport {
  id: string;
  isLeader: boolean;
  peers: readonly PeerStatus[];
  heard: HeardAnswer;
  /** Bytes on the GPU by the device's ledger, and at most since {@link PeerCall} "reset". */
  gpuBytes: number;
  peakGpuBytes: number;
  /** Messages that the fault wrappers have spoilt or swallowed. */
  faultCount: number;
}

/** Faults that a peer does to itself, for tests. */
export type SelfFault =
  | { kind: "device" }
  /** Every message of every wire is swallowed both ways for so long; then the wires work again. */
  | { kind: "silence"; milliseconds: number }
  /** Of each link's messages from now on so many are spoilt; "cut": the wires close. */
  | { kind: "frames"; how: "corrupt" | "truncate" | "repeat" | "reorder" | "drop" | "cut"; count: number }
  /** GPU and links take so many times longer, for so long. */
  | { kind: "slow"; factor: number; milliseconds: number };

/** What a peer is asked to do. */
export type PeerCall =
  | { call: "ready"; count: number }
  | { call: "generate"; job: PeerJob; model: string }
  | { call: "report" }
  /** Peaks of memory start anew, and what was heard is forgotten. */
  | { call: "reset" }
  | { call: "admit" | "remove"; peerId: string }
  | { call: "fault"; fault: SelfFault }
  | { call: "leave" };

/** An event of the ring as a line for people; undefined for what is too frequent to say. */
export function sayEvent(event: PeerEvent): string | undefined {
  switch (event.type) {
    case "joined":
      return `${event.name} joined the ring`;
    case "left":
      return `${event.name} left the ring: ${event.reason}`;
    case "suspected":
      return `${event.name} is silent`;
    case "epoch":
    case "recovered":
    case "leader":
      return event.message;
    default:
      return undefined;
  }
}

/**
 * Generates with the whole ring. The peer leads it.
 * @throws whatever generating throws.
 */
export async function runPeerJob(
  peer: Peer,
  model: string,
  job: PeerJob,
  emit: (event: JobEvent) => void,
  signal?: AbortSignal,
): Promise<PeerResult> {
  const progress = throttled((message) => emit({ type: "progress", message }));
  const { prompt, ...options } = job;
  const run = peer.generate(prompt, {
    ...options,
    signal,
    onProgress: sayPrefill(progress),
  });
  const { tokenIds, text } = await gatherAnswer(run, emit);
  const { newTokens: _, ...statistics } = run.statistics;
  return { model, adapter: peer.peers[0]?.adapterName ?? "", ...statistics, tokenIds, text };
}
