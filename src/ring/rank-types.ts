/**
 * The contract of one rank's ring attention: what `createRingAttention` does for all ranks of one device, done for the one
 * rank that computes here, its neighbours being elsewhere.
 */
import type { BufferSource } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { MemoryLedger } from "../gpu/ledger.ts";
import type { AttentionOptions } from "../kernels/attention-types.ts";
import type { Link } from "../link/types.ts";
import type { KvBlock } from "./kv-block.ts";
import type { RingStep, TokenRange } from "./types.ts";

/** What does not change between calls. Tensors are `bthd`, f32, one batch entry. */
export interface RankAttentionOptions
  extends Pick<
    AttentionOptions,
    | ("heads" | "kvHeads" | "headDim" | "scale" | "softcap" | "isCausal" | "window" | "label")
    | ("design" | "candidate" | "expectedSeqLen" | "tune")
  > {
  /** Tokens per K/V page. Default as in `RingAttentionOptions`. */
  pageSize?: number;
  /** Where the rank's bytes are entered, besides the device's ledger. */
  ledger?: MemoryLedger;
}

/** Type of K/V on the wire. "f16" halves the bytes and rounds K and V; state is always f32. */
export type WireDtype = "f32" | "f16";

/** What goes around: the K/V blocks, or the queries with their states. */
export type Rotation = "keyValue" | "query";

/** A rank's place in one pass: who it is, whom it gives to, what the others hold. The same plan on every rank. */
export interface RingPlace {
  rank: number;
  /** 1: no links. */
  worldSize: number;
  /** To rank + 1 and from rank - 1; the same link in a ring of two. Absent in a ring of one. */
  next?: Link;
  previous?: Link;
  epoch: number;
  op: number;
  layer: number;
  rotation: Rotation;
  wireDtype: WireDtype;
  /** Positions of the queries of every rank in this pass. */
  queries: readonly (readonly TokenRange[])[];
  /** Positions that every rank's block holds in this layer, this op's own included: bounds what may arrive. */
  held: readonly (readonly TokenRange[])[];
}

/** The rank's own queries of one pass, packed: row i is the i-th position of `place.queries[place.rank]`. */
export interface RankAttendTensors {
  /** `[count, H, D]`; count may be 0, and the rank still takes part. */
  query: BufferSource;
  /** `[count, H, D]` */
  output: BufferSource;
  block: KvBlock;
}

/** Attention of a few queries over one rank's block alone, normalised: what decode merges along a tree. */
export interface PartialAttention {
  /** `[count, H, D]` */
  output: Float32Array<ArrayBuffer>;
  /** `[H, count]`, natural log; -inf where nothing was seen. */
  lse: Float32Array<ArrayBuffer>;
}

/** A ring step as a rank of a ring over links tells it. */
export interface RankStep extends RingStep {
  rotation: Rotation;
  /** Whose queries are met: another rank's only where the queries go around. */
  queryRank: number;
  /** Bytes received for this step (0: the block was its own). */
  receivedBytes: number;
  /** Multiply-adds of the step's attention. */
  multiplyAdds: number;
}

/** One query of decode and its result, on the GPU. */
export interface AnswerTensors {
  /** `[1, H, D]` */
  query: BufferSource;
  /** `[1, H, D]` */
  output: BufferSource;
  position: number;
  /** Holds at least one token. */
  block: KvBlock;
}

/** See {@link createRankAttention}. */
export interface RankAttention {
  readonly pageSize: number;
  /** An empty block; the caller's to release. */
  createBlock(rank: number, label?: string): KvBlock;
  /**
   * One pass around the ring: iterate to run it, on all ranks at the same time. While the rank computes on a block, the next
   * one arrives and this one is on its way: worldSize - 1 hops.
   * @throws signal.reason
   * @throws {LinkError} when a neighbour goes or sends what does not fit the plan.
   */
  attend(tensors: RankAttendTensors, place: RingPlace, options?: { signal?: AbortSignal }): AsyncIterable<RankStep>;
  /**
   * Queries `[count, H, D]` at `position, position + 1, ...` over the block alone (decode).
   * @param query On the GPU, or in host memory.
   */
  answer(
    query: BufferSource | Float32Array<ArrayBuffer>,
    count: number,
    position: number,
    block: KvBlock,
    signal: AbortSignal,
  ): Promise<PartialAttention>;
  /**
   * Encodes one query at `position` over the block, which holds all of the context: what a rank that is alone needs no
   * answers for. Takes no memory.
   */
  encodeAnswer(target: CommandTarget, tensors: AnswerTensors): void;
  /** Gives back what it took; passes under way end with a DestroyedError. Idempotent. */
  destroy(): void;
  /** Same as `destroy()`. */
  [Symbol.dispose](): void;
}
