/**
 * Checks for values that came from a peer. A check returns the value in its type, as a copy that holds nothing else, or
 * throws a {@link Misfit} that says what was expected.
 */
import type { TokenRange } from "../ring/types.ts";

/** What came does not fit. Never leaves the parser. */
export class Misfit extends Error {}

/** Turns what came into what was expected of it. */
export type Check<T> = (value: unknown, name: string) => T;

const show = (value: unknown): string => {
  if (typeof value === "string") return `a text of ${value.length} characters`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value === null) return "null";
  return typeof value === "object" ? "an object" : String(value).slice(0, 40);
};

const misfit = (name: string, expected: string, value: unknown): Misfit =>
  new Misfit(`expected ${name} to be ${expected}, got ${show(value)}`);

/** An integer within `[min, max]`. */
export const integer =
  (min: number, max: number): Check<number> =>
  (value, name) => {
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    throw misfit(name, `an integer from ${min} to ${max}`, value);
  };

/** A finite number within `[min, max]`. */
export const number =
  (min: number, max: number): Check<number> =>
  (value, name) => {
    if (typeof value === "number" && value >= min && value <= max) return value;
    throw misfit(name, `a number from ${min} to ${max}`, value);
  };

/** Text of at most so many UTF-16 units. */
export const text =
  (maxLength: number, minLength = 0): Check<string> =>
  (value, name) => {
    if (typeof value === "string" && value.length >= minLength && value.length <= maxLength) return value;
    throw misfit(name, `text of ${minLength} to ${maxLength} characters`, value);
  };

/** True or false. */
export const flag: Check<boolean> = (value, name) => {
  if (typeof value === "boolean") return value;
  throw misfit(name, "true or false", value);
};

/** One of these words. */
export const oneOf =
  <T extends string>(...choices: readonly T[]): Check<T> =>
  (value, name) => {
    if (choices.includes(value as T)) return value as T;
    throw misfit(name, choices.join(" | "), value);
  };

/** Left out, or as the check says. */
export const optional =
  <T>(check: Check<T>): Check<T | undefined> =>
  (value, name) =>
    value === undefined || value === null ? undefined : check(value, name);

/** A list whose length lies within `[minLength, maxLength]`, each item checked. */
export const list =
  <T>(item: Check<T>, maxLength: number, minLength = 0): Check<T[]> =>
  (value, name) => {
    if (!Array.isArray(value) || value.length < minLength || value.length > maxLength)
      throw misfit(name, `a list of ${minLength} to ${maxLength}`, value);
    return value.map((one, index) => item(one, `${name}[${index}]`));
  };

/** An object with these fields; others are left behind. */
export const object =
  <T>(fields: { [K in keyof T]-?: Check<T[K]> }): Check<T> =>
  (value, name) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw misfit(name, "an object", value);
    const checked: Partial<T> = {};
    for (const key of Object.keys(fields) as (keyof T & string)[]) {
      const own = Object.hasOwn(value, key) ? (value as Record<string, unknown>)[key] : undefined;
      const field = fields[key](own, name === "message" ? key : `${name}.${key}`);
      if (field !== undefined) checked[key] = field;
    }
    return checked as T;
  };

/** Positions beyond this are nobody's. */
export const MAX_POSITION = 2 ** 24 - 1;

/** Token ranges of one rank, on the wire `[start, stride, count, start, stride, count, ...]`. */
export const ranges: Check<TokenRange[]> = (value, name) => {
  if (!Array.isArray(value) || value.length % 3 !== 0 || value.length > 90_000)
    throw misfit(name, "a list of start, stride and count of up to 30000 ranges", value);
  const position = integer(0, MAX_POSITION);
  const stride = integer(1, 64 * 1024);
  const count = integer(1, MAX_POSITION);
  const checked: TokenRange[] = [];
  for (let i = 0; i < value.length; i += 3) {
    const range = {
      start: position(value[i], `${name}[${i}]`),
      stride: stride(value[i + 1], `${name}[${i + 1}]`),
      count: count(value[i + 2], `${name}[${i + 2}]`),
    };
    position(range.start + (range.count - 1) * range.stride, `the end of ${name}[${i}]`);
    checked.push(range);
  }
  return checked;
};

/** {@link ranges} as they go onto the wire. */
export const flatRanges = (list: readonly TokenRange[]): number[] =>
  list.flatMap(({ start, stride, count }) => [start, stride, count]);
