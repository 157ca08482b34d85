/** How far a result may lie from the oracle's, and tensors in the element type of a case. */
import type { Dtype } from "../src/index.ts";
import { decodeF16, encodeF16 } from "../test/f16.ts";

/** The last two bits of a number of about one: how far a correctly computed f32 may lie off by its rounding alone. */
const LAST_BITS = 2 ** -22;

/** The nearest numbers that the type holds. */
export const inDtype = (values: Float32Array<ArrayBuffer>, dtype: Dtype): Float32Array<ArrayBuffer> =>
  dtype === "f16" ? values.map((value) => decodeF16(encodeF16(value))) : values;

/** Numbers as the bytes of the type. */
export const bytesOf = (
  values: Float32Array<ArrayBuffer>,
  dtype: Dtype,
): Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> =>
  dtype === "f16" ? Uint16Array.from(values, encodeF16) : values;

/** Bytes of the type as numbers. */
export const numbersOf = (bytes: ArrayBuffer, dtype: Dtype): Float32Array<ArrayBuffer> =>
  dtype === "f16" ? Float32Array.from(new Uint16Array(bytes), decodeF16) : new Float32Array(bytes);

/**
 * The rule of the project: at most twice the error that a plain computation in the same precision makes against the oracle
 * (its result rounded to the type), and the last bits of the largest number.
 */
export function toleranceOf(expected: ArrayLike<number>, plain: ArrayLike<number>, dtype: Dtype): number {
  let error = 0;
  let largest = 1;
  for (let index = 0; index < expected.length; index++) {
    const rounded = dtype === "f16" ? decodeF16(encodeF16(plain[index]!)) : Math.fround(plain[index]!);
    error = Math.max(error, Math.abs(rounded - expected[index]!));
    largest = Math.max(largest, Math.abs(expected[index]!));
  }
  return 2 * error + LAST_BITS * largest;
}

/** The largest absolute difference; NaN where one is found, or where a number is missing. */
export function largestDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  let largest = 0;
  for (let index = 0; index < expected.length; index++)
    // Math.max keeps NaN: it must not pass for exact.
    largest = Math.max(largest, Math.abs((got[index] ?? Number.NaN) - expected[index]!));
  return largest;
}

/** What a result says of its correctness: "ok" only within what is allowed. */
export const verdictOf = (maxError: number, allowed: number): { status: "ok" } | { status: "wrong"; reason: string } =>
  maxError <= allowed
    ? { status: "ok" }
    : { status: "wrong", reason: `The result is ${maxError} off the oracle's; ${allowed.toPrecision(3)} is allowed.` };
