/**
 * One run of `generate` over a ring of peers, and what the command line and the pages it drives say to each other about it:
 * the same code in a page's engine worker and in Node.
 */
import type {
  LoadProgress,
  Peer,
  PeerEvent,
  PeerGenerateStatistics,
  PeerStatus,
  Prompt,
  RingLayout,
  WireDtype,
} from "../index.ts";

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

/** What a run tells while it goes. */
export type PeerJobEvent = { type: "progress"; message: string } | { type: "piece"; text: string };

/** Progress lines at most this often. */
const PROGRESS_INTERVAL_MS = 500;

/** Says progress, at most every half second. */
export function throttled(emit: (message: string) => void): (message: string, isLast?: boolean) => void {
  let lastMs = Number.NEGATIVE_INFINITY;
  return (message, isLast = false) => {
    if (!isLast && performance.now() - lastMs < PROGRESS_INTERVAL_MS) return;
    lastMs = performance.now();
    emit(message);
  };
}

/** "Loading weights: ... (40%)" */
export const sayLoad = ({ message, loadedBytes, totalBytes }: LoadProgress): string =>
  totalBytes > 0 ? `${message} (${Math.floor((100 * loadedBytes) / totalBytes)}%)` : message;

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
  emit: (event: PeerJobEvent) => void,
  signal?: AbortSignal,
): Promise<PeerResult> {
  const progress = throttled((message) => emit({ type: "progress", message }));
  const { prompt, ...options } = job;
  const run = peer.generate(prompt, {
    ...options,
    signal,
    onProgress: (event) => {
      if (event.type !== "prefill") return;
      const { doneTokens, totalTokens, tokensPerSecond, secondsLeft } = event;
      // Before the first chunk is done there is no pace to tell.
      const pace = doneTokens > 0 ? `, ${tokensPerSecond.toFixed(0)} tokens/s, ${secondsLeft.toFixed(0)} s left` : "";
      progress(`prefill ${doneTokens}/${totalTokens} tokens${pace}`, doneTokens === totalTokens);
    },
  });
  const tokenIds: number[] = [];
  let text = "";
  for await (const piece of run) {
    tokenIds.push(piece.tokenId);
    text += piece.text;
    if (piece.text) emit({ type: "piece", text: piece.text });
  }
  const { newTokens: _, ...statistics } = run.statistics;
  return { model, adapter: peer.peers[0]?.adapterName ?? "", ...statistics, tokenIds, text };
}
