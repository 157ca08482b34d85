/**
 * The oracle of attention: float64 on the CPU, score by score, as the formula stands. Slow and obviously right. The same
 * loops in float32 say how large an error a plain computation of that precision makes.
 */
import type { AttentionLayout } from "../shape.ts";

/** What {@link referenceAttention} computes. Tensors are in the layout's order; all lists are plain numbers. */
export interface ReferenceAttentionOptions {
  batch: number;
  /** T */
  seqLen: number;
  /** S */
  kvSeqLen: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  layout?: AttentionLayout;
  scale?: number;
  softcap?: number;
  isCausal?: boolean;
  causalBlockSize?: number;
  window?: number;
  /** Position of query t of batch entry b. Default t. */
  queryPosition?: (b: number, t: number) => number;
  /** Position of key s of batch entry b. Default s. */
  kvPosition?: (b: number, s: number) => number;
  /** Added to the score; -Infinity hides, and every other value counts within +-6e37, as in the kernels. */
  mask?: (b: number, h: number, t: number, s: number) => number;
  /** `[B, T]` */
  querySegments?: ArrayLike<number>;
  /** `[B, S]` */
  kvSegments?: ArrayLike<number>;
  /** `[B]`: keys at positions below it count. */
  kvLengths?: ArrayLike<number>;
  /** `[H]` */
  sinks?: ArrayLike<number>;
  /** "f32" rounds after every operation. Default "f64". */
  precision?: "f64" | "f32";
}

/** Output in the layout's order, and lse `[B, H, T]` (natural log; -Infinity for a row that sees nothing). */
export interface ReferenceAttention {
  output: Float64Array<ArrayBuffer>;
  lse: Float64Array<ArrayBuffer>;
}

/** Softmax(Q K^T * scale + mask) V for every batch entry, head and query, with every mask of the project. */
export function referenceAttention(
  query: ArrayLike<number>,
  key: ArrayLike<number>,
  value: ArrayLike<number>,
  options: ReferenceAttentionOptions,
): ReferenceAttention {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim } = options;
  const { layout = "bthd", softcap = 0, scale = 1 / Math.sqrt(headDim) } = options;
  const round = options.precision === "f32" ? Math.fround : (x: number) => x;
  const at = (b: number, token: number, head: number, tokens: number, count: number, dim: number) =>
    (layout === "bthd" ? (b * tokens + token) * count + head : (b * count + head) * tokens + token) * dim;
  const output = new Float64Array(batch * seqLen * heads * valueDim);
  const lse = new Float64Array(batch * heads * seqLen);
  const scores = new Float64Array(kvSeqLen);
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++) {
      const kvHead = Math.floor(h / (heads / kvHeads));
      for (let t = 0; t < seqLen; t++) {
        const q = at(b, t, h, seqLen, heads, headDim);
        const sink = options.sinks ? options.sinks[h]! : Number.NEGATIVE_INFINITY;
        let top = sink;
        for (let s = 0; s < kvSeqLen; s++) {
          if (!isVisible(options, b, t, s)) {
            scores[s] = Number.NEGATIVE_INFINITY;
            continue;
          }
          const k = at(b, s, kvHead, kvSeqLen, kvHeads, headDim);
          let product = 0;
          for (let d = 0; d < headDim; d++) product = round(product + round(query[q + d]! * key[k + d]!));
          let score = round(product * scale);
          if (softcap > 0) score = round(softcap * round(Math.tanh(round(score / softcap))));
          if (options.mask) score = round(score + clampMask(options.mask(b, h, t, s)));
          scores[s] = score;
          top = Math.max(top, score);
        }
        const row = (b * heads + h) * seqLen + t;
        if (top === Number.NEGATIVE_INFINITY) {
          lse[row] = Number.NEGATIVE_INFINITY;
          continue;
        }
        let sum = round(Math.exp(round(sink - top)));
        const o = at(b, t, h, seqLen, heads, valueDim);
        for (let s = 0; s < kvSeqLen; s++) {
          const p = round(Math.exp(round(scores[s]! - top)));
          if (p === 0) continue;
          sum = round(sum + p);
          const v = at(b, s, kvHead, kvSeqLen, kvHeads, valueDim);
          for (let e = 0; e < valueDim; e++) output[o + e] = round(output[o + e]! + round(p * value[v + e]!));
        }
        for (let e = 0; e < valueDim; e++) output[o + e] = round(output[o + e]! / sum);
        lse[row] = round(top + round(Math.log(sum)));
      }
    }
  return { output, lse };
}

/** Beyond it a mask in base 2 would leave the range of f32, or count as hidden. */
const MASK_LIMIT = 6e37;

const clampMask = (value: number): number =>
  value === Number.NEGATIVE_INFINITY ? value : Math.min(Math.max(value, -MASK_LIMIT), MASK_LIMIT);

/** Whether positions, segments and lengths let query t see key s. */
function isVisible(options: ReferenceAttentionOptions, b: number, t: number, s: number): boolean {
  const queryPosition = options.queryPosition?.(b, t) ?? t;
  const kvPosition = options.kvPosition?.(b, s) ?? s;
  const { isCausal, causalBlockSize = 1, window, querySegments, kvSegments, kvLengths, seqLen, kvSeqLen } = options;
  if (isCausal && Math.floor(kvPosition / causalBlockSize) > Math.floor(queryPosition / causalBlockSize)) return false;
  if (window && queryPosition - kvPosition >= window) return false;
  if (window && !isCausal && kvPosition - queryPosition >= window) return false;
  if (kvLengths && kvPosition >= kvLengths[b]!) return false;
  if (querySegments && kvSegments && querySegments[b * seqLen + t] !== kvSegments[b * kvSeqLen + s]) return false;
  return true;
}
