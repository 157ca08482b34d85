/** JSON of model files: strict UTF-8, and fields read one by one with errors that name file, field and what came. */
import { ModelFormatError } from "../errors.ts";
import { describeValue } from "../shape.ts";

/** An object as JSON gives it. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** True for `{...}`: neither null, list nor scalar. */
export const isJsonObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What came, for messages: short whatever it is ("nothing" for an absent field, "a list of 900", "an object"). */
export function describeJson(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) {
    const isShort = value.length <= 8 && value.every((entry) => typeof entry !== "object" || entry === null);
    return isShort ? `[${value.map(describeJson).join(", ")}]` : `a list of ${value.length}`;
  }
  return isJsonObject(value) ? "an object" : describeValue(value);
}

/**
 * The value that a JSON file holds.
 * @throws {ModelFormatError} `"<where>: expected JSON in UTF-8, got ..."` with the parser's own words.
 */
export function parseJson(where: string, bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ModelFormatError(`${where}: expected JSON in UTF-8, got ${bytes.byteLength} bytes that are not UTF-8`, {
      cause,
    });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ModelFormatError(`${where}: expected JSON, got ${(cause as Error).message}`, { cause });
  }
}

/** As {@link parseJson}, for a file that has to hold an object. @throws {ModelFormatError} */
export function parseJsonObject(where: string, bytes: Uint8Array): JsonObject {
  return expectObject(where, "a JSON object", parseJson(where, bytes));
}

/** The value, where it is an object. @throws {ModelFormatError} `"<where>: expected <what>, got ..."` */
export function expectObject(where: string, what: string, value: unknown): JsonObject {
  if (isJsonObject(value)) return value;
  throw new ModelFormatError(`${where}: expected ${what}, got ${describeJson(value)}`);
}

/** Reads the fields of one object; `null` counts as absent. Every wrong value is a ModelFormatError naming the field. */
export class Fields {
  constructor(
    /** Start of every message, e.g. "config.json". */
    readonly where: string,
    readonly object: JsonObject,
  ) {}

  /** True where the field is there and not null. */
  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  /** The raw value; undefined where absent or null. Own fields only: a file may well say "constructor". */
  get(name: string): unknown {
    return Object.hasOwn(this.object, name) ? (this.object[name] ?? undefined) : undefined;
  }

  /** Throws: `"<where>: expected <name> to be <expected>, got ..."` @throws {ModelFormatError} always. */
  refuse(name: string, expected: string): never {
    throw new ModelFormatError(
      `${this.where}: expected ${name} to be ${expected}, got ${describeJson(this.get(name))}`,
    );
  }

  /** An integer within `[min, max]`; `fallback` where absent. @throws {ModelFormatError} */
  integer(name: string, min: number, max: number, fallback?: number): number {
    const value = this.get(name) ?? fallback;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    return this.refuse(name, `an integer from ${min} to ${max}`);
  }

  /** A finite number of at least `min`, or above it with `isAbove`; `fallback` where absent. @throws {ModelFormatError} */
  number(name: string, min: number, isAbove: boolean, fallback?: number): number {
    const value = this.get(name) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value) && (isAbove ? value > min : value >= min)) return value;
    return this.refuse(name, `a number ${isAbove ? "above" : "of at least"} ${min}`);
  }

  /** true or false; `fallback` where absent. @throws {ModelFormatError} */
  boolean(name: string, fallback: boolean): boolean {
    const value = this.get(name) ?? fallback;
    return typeof value === "boolean" ? value : this.refuse(name, "true or false");
  }

  /** A string, or undefined where absent. @throws {ModelFormatError} */
  string(name: string): string | undefined {
    const value = this.get(name);
    return value === undefined || typeof value === "string" ? value : this.refuse(name, "a string");
  }
}
