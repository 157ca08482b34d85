/**
 * The contract of attention: one set of options, one description of a call, for every kernel design and for the ring.
 *
 * Letters: B batch, T query tokens (seqLen), S key/value tokens (kvSeqLen), H heads, K kvHeads, D headDim, E valueDim.
 */
import type { BufferSource } from "../gpu/buffers.ts";
import type { AttentionLayout, Dtype } from "../shape.ts";
import type { TuneOptions } from "./tune-types.ts";

/**
 * How attention is computed, as in the original system: `vanilla` materialises the scores `[B, H, T, S]`; `flash` is one
 * fused pass; `blockwise` meets K/V block by block, carrying the state; `ring` shards K/V over ranks.
 */
export type AttentionKind = "vanilla" | "flash" | "blockwise" | "ring";

/** Which kernel: `register` (no barriers, no workgroup memory), `tile` (workgroup tiles), `subgroup`; `auto` chooses. */
export type AttentionDesign = "auto" | "register" | "tile" | "subgroup";

/** What does not change between calls: compiled into the kernels. */
export interface AttentionOptions {
  /** Query heads H. */
  heads: number;
  /** Key/value heads K; divides `heads`. Default: `heads`. */
  kvHeads?: number;
  /** D, 1 to 256. */
  headDim: number;
  /** E, 1 to 256. Default: `headDim`. */
  valueDim?: number;
  /** Element type of query, key, value and output. State and sums are always f32. Default "f32". */
  dtype?: Dtype;
  /** Default "bthd". */
  layout?: AttentionLayout;
  /** Multiplies Q K^T. Default 1/sqrt(headDim). */
  scale?: number;
  /** s -> softcap * tanh(s / softcap), before masking. 0 or absent: none. */
  softcap?: number;
  /** A query sees keys at its own and at earlier positions. */
  isCausal?: boolean;
  /** Block-causal: with `isCausal`, a query sees every key whose `floor(position / causalBlockSize)` is not later. */
  causalBlockSize?: number;
  /** Sliding window: only keys with `queryPosition - keyPosition < window` (and, where not causal, the mirror). */
  window?: number;
  /** Attention mask given per call: `additive` (f32, added to the scores; -inf hides, other values count within +-6e37) or `boolean` (bytes; 0 hides). */
  mask?: "none" | "additive" | "boolean";
  /** Calls carry segment ids: a query sees keys of its own segment only (packed sequences). */
  hasSegments?: boolean;
  /** Calls carry one valid key count per batch entry. */
  hasKvLengths?: boolean;
  /** Calls carry one sink logit per head, which joins the softmax's denominator (and lse) and no value. */
  hasSinks?: boolean;
  /** Default "flash". */
  kind?: AttentionKind;
  /** Default "auto". */
  design?: AttentionDesign;
  /**
   * Forces one kernel by its id, as `attentionCandidates` lists them, for the work (many or few query rows) that it does;
   * other work chooses for itself.
   */
  candidate?: string;
  /**
   * Chooses the kernels by measurement where this adapter and class of shapes were never met: a handful of candidates within
   * 2 seconds, each checked first; the winner is kept (IndexedDB, or files in Node) and found again. Default false: what is
   * shipped for the adapter, else what its limits make safe. `design` and `candidate` come first.
   */
  tune?: boolean | TuneOptions;
  /** Tokens that calls typically have: which kernel is fastest may depend on it. Any length stays right. Default 2048. */
  expectedSeqLen?: number;
  /** Tokens of K/V per block with kind "blockwise". Default 1024. */
  blockSize?: number;
  label?: string;
}

/**
 * Global positions of the tokens of a tensor, ascending. `start + i * stride` for token i, or an explicit list on the GPU:
 * u32 `[T]`, or `[B, T]` with `perBatch`. No position may exceed 2^31 - 1; that of a list is the caller's to see to, since
 * nobody reads it back.
 */
export type TokenPositions =
  | { start: number; stride?: number }
  | {
      positions: BufferSource;
      perBatch?: boolean;
      /** Smallest and largest position in the list, where the host knows them: lets whole blocks be skipped. */
      min?: number;
      max?: number;
    };

/** A mask's buffer and shape. Rows and columns are counted from `queryOrigin` and `kvOrigin` in global positions. */
export interface AttentionMask {
  buffer: BufferSource;
  /**
   * `[T, S]`, `[H, T, S]` or `[B, H, T, S]`; an axis of 1 is broadcast. Additive: f32. Boolean: one byte each. The last axis
   * may be shorter than the keys: those past it are hidden, as in ONNX Attention. With a `queryOrigin` T may be longer.
   */
  shape: readonly number[];
  /** Global position of the mask's first row. Default: position of the first query. */
  queryOrigin?: number;
  /** Global position of the mask's first column. Default 0. */
  kvOrigin?: number;
}

/** One call of attention: all on the GPU, nothing copied. */
export interface AttentionTensors {
  /** `[B, T, H, D]` (or `[B, H, T, D]`) */
  query: BufferSource;
  /** `[B, S, K, D]` (or `[B, K, S, D]`) */
  key: BufferSource;
  /** `[B, S, K, E]` (or `[B, K, S, E]`) */
  value: BufferSource;
  /** `[B, T, H, E]` (or `[B, H, T, E]`) */
  output: BufferSource;
  /** f32 `[B, H, T]`, natural log; -inf for a row that sees nothing. Left out: not kept. */
  lse?: BufferSource;
  batch: number;
  seqLen: number;
  kvSeqLen: number;
  /** Default `{start: 0}`. With `isCausal` this is the causal offset. */
  queryPositions?: TokenPositions;
  /** Default `{start: 0}`. */
  kvPositions?: TokenPositions;
  mask?: AttentionMask;
  /** u32 `[B, T]` */
  querySegments?: BufferSource;
  /** u32 `[B, S]` */
  kvSegments?: BufferSource;
  /** u32 `[B]`: keys at positions below it count. */
  kvLengths?: BufferSource;
  /** f32 `[H]` */
  sinks?: BufferSource;
  /** Keys and values before these: attention then meets past and new ones, and writes both to `present`. */
  past?: AttentionPast;
}

/**
 * Past keys and values, as the ONNX operator has them. `kvSeqLen` counts the new ones; positions, segments and lengths count
 * past and new together, and queries are at positions from P on unless `queryPositions` says otherwise.
 */
export interface AttentionPast {
  /** `[B, P, K, D]` (or `[B, K, P, D]`) */
  key: BufferSource;
  /** `[B, P, K, E]` (or `[B, K, P, E]`) */
  value: BufferSource;
  /** P, at least 1. */
  seqLen: number;
  /** Layout of past and present; the attention's own unless given. */
  layout?: AttentionLayout;
  /** `[B, P + S, K, D]` (or `[B, K, P + S, D]`): written. */
  presentKey: BufferSource;
  /** `[B, P + S, K, E]` (or `[B, K, P + S, E]`): written. */
  presentValue: BufferSource;
}

/**
 * One ring step: the local queries meet one K/V block (or a part of one) and the state is updated. K/V here may be a page
 * of which only the first `kvSeqLen` tokens are filled: `kvCapacity` is then the token count that strides are made of.
 */
export interface AttentionStepTensors extends Omit<AttentionTensors, "output" | "lse" | "past"> {
  /** See {@link AttentionStepper.stateByteLength}. */
  state: BufferSource;
  /** True for the first block that the state meets: what the state held before is ignored. */
  isFirst: boolean;
  /** Tokens that fit into the K/V buffers where more than `kvSeqLen`. Default `kvSeqLen`. */
  kvCapacity?: number;
}
