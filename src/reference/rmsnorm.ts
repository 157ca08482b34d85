/** The oracle of RMSNorm (Zhang and Sennrich, arXiv 1910.07467). */
import { arrayOf, type Precision, roundTo } from "./precision.ts";

/** `input / sqrt(mean(input^2) + eps) * weight` for rows of `weight.length` elements; the result has the input's length. */
export function referenceRmsNorm(
  input: ArrayLike<number>,
  weight: ArrayLike<number>,
  eps: number,
  precision: Precision = "f64",
): Float64Array | Float32Array {
  const round = roundTo(precision);
  const width = weight.length;
  const output = arrayOf(precision, input.length);
  for (let start = 0; start < input.length; start += width) {
    let squares = 0;
    for (let i = 0; i < width; i++) squares = round(squares + round(input[start + i]! * input[start + i]!));
    const root = round(Math.sqrt(round(round(squares / width) + round(eps))));
    for (let i = 0; i < width; i++) output[start + i] = round(round(input[start + i]! / root) * weight[i]!);
  }
  return output;
}
