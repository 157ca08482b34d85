/**
 * Merge of two partial attentions over disjoint keys by their log-sum-exp (Flash-Decoding; Tree Attention, arXiv
 * 2408.04093): what decode does along a tree of ranks. Pure, on the CPU: one query's answers are tiny.
 */
import { ShapeError } from "../errors.ts";
import type { PartialAttention } from "./rank-types.ts";

/**
 * Attention over the keys of both: outputs weighted by exp(lse), lse added up. Any order and grouping of merges gives the
 * same within rounding; a side that saw nothing (lse -inf) counts for nothing.
 * @throws {ShapeError} where the two are not of one shape.
 */
export function mergePartials(
  a: PartialAttention,
  b: PartialAttention,
  heads: number,
  headDim: number,
): PartialAttention {
  const rows = a.lse.length;
  const count = rows / heads;
  const isSame = b.lse.length === rows && [a, b].every(({ output }) => output.length === rows * headDim);
  if (!isSame || !Number.isInteger(count))
    throw new ShapeError(
      `mergePartials: expected two answers of [n, ${heads}, ${headDim}] with lse [${heads}, n], got ${a.output.length} with ${a.lse.length} and ${b.output.length} with ${b.lse.length}`,
    );
  const output = new Float32Array(a.output.length);
  const lse = new Float32Array(rows).fill(Number.NEGATIVE_INFINITY);
  for (let head = 0; head < heads; head++)
    for (let token = 0; token < count; token++) {
      const row = head * count + token;
      const top = Math.max(a.lse[row]!, b.lse[row]!);
      // exp(-inf - -inf) would be NaN.
      if (top === Number.NEGATIVE_INFINITY) continue;
      const [weightA, weightB] = [Math.exp(a.lse[row]! - top), Math.exp(b.lse[row]! - top)];
      const sum = weightA + weightB;
      lse[row] = top + Math.log(sum);
      const at = (token * heads + head) * headDim;
      for (let i = at; i < at + headDim; i++) {
        // What a side that saw nothing says of its output must not count, not even as 0 * NaN.
        const partA = weightA > 0 ? a.output[i]! * (weightA / sum) : 0;
        const partB = weightB > 0 ? b.output[i]! * (weightB / sum) : 0;
        output[i] = partA + partB;
      }
    }
  return { output, lse };
}
