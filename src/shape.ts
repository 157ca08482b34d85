/** Element types, shapes and their validation. Nothing here knows WebGPU. */
import { OptionError, ShapeError } from "./errors.ts";

/** Element type of a tensor on the GPU. */
export type Dtype = "f32" | "f16";

/** Element type of a stored weight; bf16 exists in weights only (kernels widen it as they read). */
export type WeightDtype = Dtype | "bf16";

/** Bytes of one element. */
export const BYTES_PER_ELEMENT: Readonly<Record<WeightDtype, number>> = { f32: 4, f16: 2, bf16: 2 };

/**
 * Order of the axes. `bthd`: query `[B, T, H, D]`, key and value `[B, S, K, D]`. `bhtd`: query `[B, H, T, D]`, key and
 * value `[B, K, S, D]`.
 */
export type AttentionLayout = "bthd" | "bhtd";

/** `[2, 3, 4]`, as error messages print it. */
export const formatShape = (shape: readonly number[]): string => `[${shape.join(", ")}]`;

/** Product of the axes; 1 for a scalar. */
export const elementCount = (shape: readonly number[]): number => shape.reduce((product, axis) => product * axis, 1);

/** What came, as an error message shows it: strings quoted, long values cut. */
export function describeValue(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (Array.isArray(value)) return formatShape(value);
  if (typeof value === "object" && value !== null) return value.constructor?.name ?? "object";
  return String(value);
}

/**
 * Checks that `value` is an integer within `[min, max]`.
 * @throws {OptionError} `"<where>: expected <name> to be an integer from <min> to <max>, got <value>"`
 */
export function expectInteger(
  where: string,
  name: string,
  value: unknown,
  min = 1,
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
  const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
  throw new OptionError(`${where}: expected ${name} to be an integer ${range}, got ${describeValue(value)}`);
}

/** Checks that `value` is one of `choices`. @throws {OptionError} naming the choices and what came. */
export function expectOneOf<T extends string>(where: string, name: string, value: unknown, choices: readonly T[]): T {
  if (choices.includes(value as T)) return value as T;
  const list = choices.map((choice) => `"${choice}"`).join(" | ");
  throw new OptionError(`${where}: expected ${name} to be ${list}, got ${describeValue(value)}`);
}

/** Checks that two shapes agree axis by axis. @throws {ShapeError} naming both. */
export function expectShape(where: string, name: string, got: readonly number[], expected: readonly number[]): void {
  if (got.length === expected.length && got.every((axis, index) => axis === expected[index])) return;
  throw new ShapeError(`${where}: expected ${name} of shape ${formatShape(expected)}, got ${formatShape(got)}`);
}
