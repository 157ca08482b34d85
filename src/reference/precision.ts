/** The two precisions an oracle computes in: float64, and float32 rounded after every operation ("plain"). */

/** "f64": the oracle. "f32": what a plain same-precision computation gives, for the tolerance rule. */
export type Precision = "f64" | "f32";

/** Rounds the result of one operation to the precision. */
export const roundTo = (precision: Precision): ((value: number) => number) =>
  precision === "f32" ? Math.fround : (value) => value;

/** An array of that precision. */
export const arrayOf = (precision: Precision, length: number): Float64Array | Float32Array =>
  precision === "f32" ? new Float32Array(length) : new Float64Array(length);
