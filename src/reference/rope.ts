/** The oracle of rotary position embedding (RoFormer, arXiv 2104.09864), for given cosines and sines. */
import { arrayOf, type Precision, roundTo } from "./precision.ts";

/** One head of one token and the turn of each of its pairs. */
export interface ReferenceRope {
  /** `[D]` */
  input: ArrayLike<number>;
  /** `[rotaryDim / 2]` each */
  cos: ArrayLike<number>;
  sin: ArrayLike<number>;
  interleaved?: boolean;
}

/** The rotated head, `[D]`: elements past the pairs are unchanged. */
export function referenceRope(call: ReferenceRope, precision: Precision = "f64"): Float64Array | Float32Array {
  const { input, cos, sin, interleaved = false } = call;
  const round = roundTo(precision);
  const output = arrayOf(precision, input.length);
  for (let d = 0; d < input.length; d++) output[d] = input[d]!;
  for (let i = 0; i < cos.length; i++) {
    const first = interleaved ? 2 * i : i;
    const second = interleaved ? 2 * i + 1 : i + cos.length;
    const [a, b] = [input[first]!, input[second]!];
    output[first] = round(round(a * cos[i]!) - round(b * sin[i]!));
    output[second] = round(round(b * cos[i]!) + round(a * sin[i]!));
  }
  return output;
}
