/** The oracle of the matrix product and of the activations. M rows, K inFeatures, N outFeatures. */
import { arrayOf, type Precision, roundTo } from "./precision.ts";

/** A call of the oracle: every tensor as plain numbers. */
export interface ReferenceMatmul {
  /** `[M, K]` */
  input: ArrayLike<number>;
  /** `[N, K]` */
  weight: ArrayLike<number>;
  /** `[N]` */
  bias?: ArrayLike<number>;
  /** `[M, N]`, added to the result. */
  residual?: ArrayLike<number>;
  rows: number;
  inFeatures: number;
  outFeatures: number;
}

/** `input . weight^T + bias + residual`, `[M, N]`; sums run from first to last. */
export function referenceMatmul(call: ReferenceMatmul, precision: Precision = "f64"): Float64Array | Float32Array {
  const { input, weight, bias, residual, rows, inFeatures, outFeatures } = call;
  const round = roundTo(precision);
  const output = arrayOf(precision, rows * outFeatures);
  for (let m = 0; m < rows; m++)
    for (let n = 0; n < outFeatures; n++) {
      let sum = 0;
      for (let k = 0; k < inFeatures; k++)
        sum = round(sum + round(input[m * inFeatures + k]! * weight[n * inFeatures + k]!));
      if (bias) sum = round(sum + bias[n]!);
      if (residual) sum = round(sum + residual[m * outFeatures + n]!);
      output[m * outFeatures + n] = sum;
    }
  return output;
}

/**
 * The error function, to about 1e-16: the all-positive series 2/sqrt(pi) exp(-z^2) sum 2^n z^(2n+1) / (2n+1)!!
 * (Abramowitz and Stegun 7.1.6).
 */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  let term = z;
  let sum = z;
  for (let n = 1; term > sum * 1e-18; n++) sum += term *= (2 * z * z) / (2 * n + 1);
  return (Math.sign(x) * 2 * Math.exp(-z * z) * sum) / Math.sqrt(Math.PI);
}

/** Names as in the kernels. */
export type ReferenceActivation = "none" | "silu" | "gelu" | "gelu_tanh" | "relu";

/** One activation of one number; "f32" rounds after every operation, with exp, erf and tanh rounded once. */
export function referenceActivation(name: ReferenceActivation, x: number, precision: Precision = "f64"): number {
  const r = roundTo(precision);
  switch (name) {
    case "none":
      return x;
    case "silu":
      return r(x / r(1 + r(Math.exp(-x))));
    case "gelu":
      return r(r(0.5 * x) * r(1 + r(erf(r(x * r(Math.SQRT1_2))))));
    case "gelu_tanh":
      return r(
        r(0.5 * x) * r(1 + r(Math.tanh(r(r(Math.sqrt(2 / Math.PI)) * r(x + r(r(0.044715) * r(x * r(x * x)))))))),
      );
    case "relu":
      return Math.max(x, 0);
  }
}
