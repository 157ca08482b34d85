/** The contract of ring attention: its options, its calls, and what it gives back. */
import type { BufferSource } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { MemoryLedger, MemoryUse } from "../gpu/ledger.ts";
import type { AttentionMask, AttentionOptions } from "../kernels/attention-types.ts";
import type { AttentionChoice } from "../kernels/tiles.ts";
import type { KvBlock } from "./kv-block.ts";
import type { Transport } from "./transport.ts";
import type { BlockMemory, RingLayout, RingStep, TokenRange } from "./types.ts";

/**
 * What does not change between calls. Tensors are always in `bthd` order here: `layout` names how tokens are spread over
 * the ranks.
 */
export interface RingAttentionOptions extends Omit<AttentionOptions, "layout" | "kind" | "blockSize"> {
  /** 1 to 64. Default 1. */
  worldSize?: number;
  /** Default "zigzag". */
  layout?: RingLayout;
  /** Default "gpu". */
  blockMemory?: BlockMemory;
  /**
   * Tokens per K/V page, which is also the most that one dispatch meets. Default: what fits into about 1 MiB, 256 to 1024;
   * less where a page would be larger than the device's `maxStorageBufferBindingSize`.
   */
  pageSize?: number;
  /** Most query tokens of one decode call. Default 1. */
  maxDecodeTokens?: number;
  /** How blocks get from rank to rank. Default: handed over inside this device, from GPU or host memory as `blockMemory` says. */
  transport?: Transport;
  /**
   * Where the bytes of each rank are entered under its number, besides the device's ledger: rings that share one are
   * counted together (a model's layers, say). Default: one of the ring's own.
   */
  ledger?: MemoryLedger;
}

/** K or V in host memory: f32, or the bits of f16 where that is the dtype. */
export type HostTensor = Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;

/** A whole sequence through the ring: every rank takes its shard of it. */
export interface RingTensors {
  /** `[B, T, H, D]` */
  query: BufferSource;
  /** `[B, S, K, D]`; in host memory it never goes to the GPU whole (needs `blockMemory: "host"`). */
  key: BufferSource | HostTensor;
  /** `[B, S, K, E]` */
  value: BufferSource | HostTensor;
  /** `[B, T, H, E]` */
  output: BufferSource;
  /** f32 `[B, H, T]`, natural log. Left out: not kept. */
  lse?: BufferSource;
  /** B. Default 1. */
  batch?: number;
  seqLen: number;
  /** S. Default `seqLen`. */
  kvSeqLen?: number;
  /** Position of the first query (the causal offset). Default 0. */
  queryStart?: number;
  /** Position of the first key. Default 0. */
  kvStart?: number;
  /** Its rows count from `queryStart` and its columns from `kvStart`, unless it names other origins. */
  mask?: AttentionMask;
  /** u32 `[B, T]` */
  querySegments?: BufferSource;
  /** u32 `[B, S]` */
  kvSegments?: BufferSource;
  /** u32 `[B]`: keys at positions below it count. */
  kvLengths?: BufferSource;
  /** f32 `[H]` */
  sinks?: BufferSource;
}

/** A run of tokens of one sequence: positions `start` to `start + count - 1`. */
export interface TokenSpan {
  start: number;
  count: number;
}

/** New K/V of a chunk, in token order. */
export interface RingAppendTensors extends TokenSpan {
  /** `[count, K, D]` */
  key: BufferSource;
  /** `[count, K, E]` */
  value: BufferSource;
}

/** Queries of a chunk, in token order, against everything the blocks hold. */
export interface RingAttendTensors extends TokenSpan {
  /** `[count, H, D]` */
  query: BufferSource;
  /** `[count, H, E]`, written in token order. */
  output: BufferSource;
  /** f32 `[H, count]`. Left out: not kept. */
  lse?: BufferSource;
  /** One block per rank, rank 0 first. */
  blocks: readonly KvBlock[];
  /** f32 `[H]`, where the ring was made with `hasSinks`. */
  sinks?: BufferSource;
}

/** How a run may be stopped. */
export interface RingRunOptions {
  /** Rejects with `signal.reason`; ring and blocks stay usable. */
  signal?: AbortSignal;
  /**
   * Called when all of it is on the queue, before the iteration goes on to wait for it: what is submitted from then on finds the
   * results. The ring's memory for this pass is then free for the next one.
   */
  onSubmitted?: () => void;
}

/** Ring attention on one device: see {@link createRingAttention}. */
export interface RingAttention {
  readonly worldSize: number;
  readonly layout: RingLayout;
  readonly blockMemory: BlockMemory;
  /** Which kernels run, and why. */
  readonly choice: AttentionChoice;
  /** Tokens per page. */
  readonly pageSize: number;

  /** Which tokens of a chunk each rank takes: `shardTokens` with this ring's world and layout. */
  shard(span: TokenSpan): TokenRange[][];

  /**
   * One empty block per rank; takes no GPU memory until something is appended. They are the caller's to release. With
   * `window`, tokens that no query at or past the chunk being appended can see are forgotten, so memory stays bounded.
   * @param mostTokens Tokens that each block will hold at most, where that is known: pages in GPU memory are then no larger.
   */
  createBlocks(label?: string, mostTokens?: number): KvBlock[];

  /**
   * Makes room for a chunk's K/V in the blocks, so that {@link encodeAppend} can be synchronous. Host blocks move a full
   * page to the host here: what was encoded against it must have been submitted before.
   * @throws {GpuMemoryError}
   */
  reserve(blocks: readonly KvBlock[], span: TokenSpan): Promise<void>;

  /** Encodes the spreading of a chunk's K/V over the blocks. Needs {@link reserve}d room. @throws {OptionError} without. */
  encodeAppend(target: CommandTarget, blocks: readonly KvBlock[], tensors: RingAppendTensors): void;

  /** Spreads a chunk's K/V over the blocks: reserves, encodes and submits. What computes key and value must be submitted. */
  append(blocks: readonly KvBlock[], tensors: RingAppendTensors, options?: RingRunOptions): Promise<void>;

  /**
   * A whole sequence: iterate to run it. Results are complete (submitted) when the iteration ends.
   * @throws {OptionError} where `blockMemory` is "host" and a page cannot hold one token of every batch entry.
   */
  run(tensors: RingTensors, options?: RingRunOptions): AsyncIterable<RingStep>;

  /**
   * Chunked prefill: each rank's share of the chunk's queries meets every rank's block. Iterate to run it; what computes
   * `query` must be submitted before.
   */
  attend(tensors: RingAttendTensors, options?: RingRunOptions): AsyncIterable<RingStep>;

  /**
   * Decode with blocks in GPU memory: the query goes to every rank, each answers with a partial state, a tree merges them
   * by lse. Encodes only. At most `maxDecodeTokens` queries.
   * @throws {OptionError} where a block has pages in host memory: use {@link decode}.
   */
  encodeDecode(target: CommandTarget, tensors: RingAttendTensors): void;

  /** Decode with blocks anywhere: submits by itself; resolves when everything is submitted. */
  decode(tensors: RingAttendTensors, options?: RingRunOptions): Promise<void>;

  /**
   * Bytes on the GPU now and at most so far, per rank: K/V pages, query shards and states of this ring, and of those that
   * share its {@link RingAttentionOptions.ledger}.
   */
  memory(): MemoryUse[];

  /** Frees the ring's own buffers; runs in progress reject with DestroyedError. Blocks stay the caller's. */
  destroy(): void;
  [Symbol.dispose](): void;
}
