/** Rows of attention computed plainly on the CPU in float64: what the tuner holds a kernel's result against. */
import type { ResolvedAttention } from "./attention-options.ts";

/** A small call whose inputs the host holds: one batch entry, queries at the end of the keys. */
export interface PlainCall {
  /** `[T, H, D]` or `[H, T, D]`, by layout */
  query: Float32Array;
  /** `[S, K, D]` or `[K, S, D]` */
  key: Float32Array;
  /** `[S, K, E]` or `[K, S, E]` */
  value: Float32Array;
  seqLen: number;
  kvSeqLen: number;
}

/** First element of a token of a head, in the options' layout. */
export const rowStart = (
  { layout }: ResolvedAttention,
  tokens: number,
  heads: number,
  dim: number,
  token: number,
  head: number,
): number => (layout === "bthd" ? token * heads + head : head * tokens + token) * dim;

/** Keys that a query sees: causal, block-causal and window, from positions (query t is at S - T + t). */
function visibleKeys(resolved: ResolvedAttention, call: PlainCall, token: number): [start: number, end: number] {
  const { isCausal, causalBlockSize, window } = resolved;
  const position = call.kvSeqLen - call.seqLen + token;
  let end = call.kvSeqLen;
  if (isCausal) end = Math.min(end, (Math.floor(position / causalBlockSize) + 1) * causalBlockSize);
  else if (window > 0) end = Math.min(end, position + window);
  return [window > 0 ? Math.max(0, position - window + 1) : 0, end];
}

/** Output `[E]` and lse (natural log) of one query row: softmax(q K^T * scale) V, as the textbook writes it. */
export function plainRow(
  resolved: ResolvedAttention,
  call: PlainCall,
  token: number,
  head: number,
): { output: Float64Array; lse: number } {
  const { heads, kvHeads, group, headDim, valueDim, scale, softcap } = resolved;
  const { query, key, value, seqLen, kvSeqLen } = call;
  const kvHead = Math.floor(head / group);
  const q = rowStart(resolved, seqLen, heads, headDim, token, head);
  const [start, end] = visibleKeys(resolved, call, token);
  const scores = new Float64Array(Math.max(0, end - start));
  let max = Number.NEGATIVE_INFINITY;
  for (let s = start; s < end; s++) {
    const k = rowStart(resolved, kvSeqLen, kvHeads, headDim, s, kvHead);
    let sum = 0;
    for (let d = 0; d < headDim; d++) sum += query[q + d]! * key[k + d]!;
    sum *= scale;
    if (softcap > 0) sum = softcap * Math.tanh(sum / softcap);
    scores[s - start] = sum;
    max = Math.max(max, sum);
  }
  const output = new Float64Array(valueDim);
  let total = 0;
  for (let s = start; s < end; s++) {
    const weight = Math.exp(scores[s - start]! - max);
    total += weight;
    const v = rowStart(resolved, kvSeqLen, kvHeads, valueDim, s, kvHead);
    for (let e = 0; e < valueDim; e++) output[e]! += weight * value[v + e]!;
  }
  for (let e = 0; e < valueDim; e++) output[e]! /= total;
  return { output, lse: max + Math.log(total) };
}
