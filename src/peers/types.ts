/**
 * A ring of peers, as the page and the command line see it: who is in it, what each holds and does, what happens when one
 * comes or goes, and a run of `generate` over all of them.
 */
import type { Wire } from "../link/types.ts";
import type {
  GeneratedPiece,
  GenerateOptions,
  GenerateStatistics,
  LoadProgress,
  Model,
  Prompt,
  RankStatistics,
} from "../model/types.ts";
import type { RankStep, Rotation, WireDtype } from "../ring/rank-types.ts";
import type { RingLayout, TokenRange } from "../ring/types.ts";

/**
 * connecting: linked, has not introduced itself; asking: waits for the leader to let it in; loading: gets the model; ready:
 * may compute from the next boundary on; working: a rank of the current epoch; suspected: silent for a second; gone: left,
 * or dropped after five silent seconds.
 */
export type PeerState = "connecting" | "asking" | "loading" | "ready" | "working" | "suspected" | "gone";

/** What is known of a peer. */
export interface PeerStatus {
  id: string;
  /** As the person named it: "Anna's laptop". */
  name: string;
  isSelf: boolean;
  isLeader: boolean;
  state: PeerState;
  /** Its rank in the current epoch. */
  rank?: number;
  adapterName: string;
  /** GPU memory that it offers for K/V, in bytes. */
  memoryBytes: number;
  /** K/V bytes that it holds. */
  usedBytes: number;
  heldTokens: number;
  /** Measured multiply-adds per second of its attention, once there were some. */
  multiplyAddsPerSecond?: number;
  /** To this peer from here: kind and measured figures. */
  linkKind?: "memory" | "worker" | "tab" | "webrtc";
  bytesPerSecond?: number;
  roundTripMs?: number;
  /** Why it is gone. */
  reason?: string;
}

/** What happens in the ring, for those who watch it. Messages are sentences for people. */
export type PeerEvent =
  | { type: "peers"; peers: readonly PeerStatus[] }
  | { type: "asks"; peerId: string; name: string; adapterName: string }
  | { type: "joined"; peerId: string; name: string }
  | { type: "left"; peerId: string; name: string; reason: string; lostTokens: number }
  | { type: "suspected"; peerId: string; name: string }
  | { type: "epoch"; epoch: number; leaderId: string; ranks: readonly string[]; message: string }
  | { type: "recovering"; doneTokens: number; totalTokens: number; message: string }
  | { type: "recovered"; tokens: number; milliseconds: number; message: string }
  | { type: "leader"; peerId: string; isSelf: boolean; message: string }
  | { type: "load"; progress: LoadProgress }
  | { type: "prefill"; doneTokens: number; totalTokens: number; tokensPerSecond: number; secondsLeft: number }
  | { type: "steps"; rank: number; layer: number; layerCount: number; steps: readonly RankStep[] }
  /** A run begins here: how long its prompt is, and how it ends (at most 200 characters). */
  | { type: "run"; promptTokens: number; promptTail: string }
  /** The answer as it grows, on every peer. */
  | { type: "piece"; piece: GeneratedPiece }
  | { type: "end"; stopReason: GenerateStatistics["stopReason"] | "failed"; message: string }
  /** The last event of a peer: it has left, or is out of the ring for another reason (turned away, removed, another model). */
  | { type: "closed"; reason: string };

/** One rank of a run over peers. */
export interface PeerRankStatistics extends RankStatistics {
  peerId: string;
  name: string;
  adapterName: string;
  /** To the next rank. */
  linkKind?: string;
  sentBytes: number;
  receivedBytes: number;
  /** Multiply-adds per second of its attention (F), and bytes per second of the link into it (B). */
  multiplyAddsPerSecond?: number;
  bytesPerSecond?: number;
}

/** A run over peers in figures. */
export interface PeerGenerateStatistics extends Omit<GenerateStatistics, "ring"> {
  ring: Omit<GenerateStatistics["ring"], "ranks"> & {
    ranks: PeerRankStatistics[];
    wireDtype: WireDtype;
    /** How often each was chosen. */
    rotations: Record<Rotation, number>;
    /** Epochs that the run went through: 1 where nobody came or went. */
    epochs: number;
    /** Tokens computed again because a peer went, and the time from noticing to going on. */
    recoveredTokens: number;
    recoveryMs: number[];
    /** Whether this ring can hide its transfers, and from what length on. */
    overlap: string;
  };
}

/** How a prompt is run over peers. */
export interface PeerGenerateOptions extends GenerateOptions {
  /** Default "zigzag". */
  layout?: RingLayout;
  /** K/V on the wire. Default "f32". */
  wireDtype?: WireDtype;
  /** Copies of each rank's K/V kept by its neighbour: 0 or 1. Default 0. */
  replicas?: 0 | 1;
}

/** A run over peers: iterate its pieces, once. */
export interface PeerGeneration extends AsyncIterable<GeneratedPiece> {
  readonly statistics: PeerGenerateStatistics;
}

/** A peer of a ring: one GPU, one model, links to the others. See `createPeer`. */
export interface Peer {
  readonly id: string;
  readonly isLeader: boolean;
  /** The model that it runs, once that is there. */
  readonly model: Model | undefined;
  /** Lets everyone in who has come through the room, without an "asks" event. */
  admitAll: boolean;
  /** This one first. */
  readonly peers: readonly PeerStatus[];
  /** A peer has been found (again): talk to it over these wires. */
  connect(peerId: string, wires: readonly Wire[]): void;
  /** The room says that it is gone. */
  disconnect(peerId: string, reason: string): void;
  /** The leader's answer to an "asks" event. */
  admit(peerId: string): void;
  /** The leader sends someone away (or turns one who asks away). */
  remove(peerId: string, reason?: string): void;
  /** Resolves when at least `count` peers, this one included, are ready. @throws signal.reason */
  ready(count: number, signal?: AbortSignal): Promise<void>;
  /** Leader only: answers a prompt with the whole ring. */
  generate(prompt: Prompt, options?: PeerGenerateOptions): PeerGeneration;
  /** Ends the run that goes on, whoever leads it. */
  stop(): void;
  /** Says goodbye and gives everything back. The others go on without this one. */
  leave(reason?: string): Promise<void>;
}

/** Which model a ring runs, as its leader tells those who join. */
export interface PeerModelDescription {
  name: string;
  /** A Hugging Face id or an address that everyone can reach. Absent: the weights come from the peers. */
  source?: string | undefined;
  /** SHA-256 over config.json and the headers of the weights, as hex: what all peers must agree on. */
  fingerprint: string;
}

/** Positions that one peer holds. */
export interface Holding {
  peerId: string;
  ranges: readonly TokenRange[];
}
