/** Seeded inputs of an attention case, and what the float64 oracle says of chosen rows of its output. */
import { referenceAttention } from "../src/reference/attention.ts";
import type { AttentionCase } from "../test/cases.ts";
import { normals } from "./random.ts";
import { inDtype, toleranceOf } from "./tolerance.ts";

/** Query `[B, T, H, D]`, key `[B, S, K, D]`, value `[B, S, K, E]`. */
export interface AttentionInputs {
  query: Float32Array<ArrayBuffer>;
  key: Float32Array<ArrayBuffer>;
  value: Float32Array<ArrayBuffer>;
}

/** Rows of the query that are checked in a large case: the first, the last, and some between. */
const ORACLE_ROWS = 24;

/** The same numbers in every page, in Node and on every machine; rounded to f16 where that is the case's type. */
export function attentionInputs(shape: AttentionCase): AttentionInputs {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim } = shape;
  return {
    query: inDtype(normals(batch * seqLen * heads * headDim, 1), shape.dtype),
    key: inDtype(normals(batch * kvSeqLen * kvHeads * headDim, 2), shape.dtype),
    value: inDtype(normals(batch * kvSeqLen * kvHeads * valueDim, 3), shape.dtype),
  };
}

/** Rows spread evenly from the first to the last. */
export function spreadRows(seqLen: number, most = ORACLE_ROWS): number[] {
  if (seqLen <= most) return Array.from({ length: seqLen }, (_, row) => row);
  return Array.from({ length: most }, (_, index) => Math.round((index * (seqLen - 1)) / (most - 1)));
}

/** Chosen rows of a `[B, T, width]` tensor, as `[B, rows, width]`. */
export function pickRows(tensor: Float32Array, batch: number, width: number, rows: readonly number[]): Float32Array {
  const tokens = tensor.length / (batch * width);
  const picked = new Float32Array(batch * rows.length * width);
  for (let b = 0; b < batch; b++)
    rows.forEach((row, index) => {
      const from = (b * tokens + row) * width;
      picked.set(tensor.subarray(from, from + width), (b * rows.length + index) * width);
    });
  return picked;
}

/** The oracle's output for chosen rows, `[B, rows, H, E]`; layout bthd, which bench cases have. */
export function expectedRows(
  shape: AttentionCase,
  inputs: AttentionInputs,
  rows: readonly number[],
  precision: "f64" | "f32" = "f64",
): Float64Array {
  const { batch, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, queryStart = 0 } = shape;
  const { scale, softcap, isCausal, causalBlockSize, window } = shape;
  return referenceAttention(pickRows(inputs.query, batch, heads * headDim, rows), inputs.key, inputs.value, {
    ...{ batch, seqLen: rows.length, kvSeqLen, heads, kvHeads, headDim, valueDim, precision },
    ...{ scale, softcap, isCausal, causalBlockSize, window },
    queryPosition: (_, t) => queryStart + rows[t]!,
  }).output;
}

/** How far an output may lie from the oracle's `expected` rows; see {@link toleranceOf}. */
export const allowedError = (
  shape: AttentionCase,
  inputs: AttentionInputs,
  rows: readonly number[],
  expected: ArrayLike<number>,
): number => toleranceOf(expected, expectedRows(shape, inputs, rows, "f32"), shape.dtype);
