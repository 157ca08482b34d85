/** Turning a `.wgsl` file into the source of one variant: knobs set by name, `lib/` files appended, loops written out, `enable`s on top. */
import { OptionError } from "../errors.ts";
import { unroll } from "./unroll.ts";

/** A kernel file: its name for error messages, and its text. */
export interface KernelSource {
  /** e.g. "attention.wgsl" */
  file: string;
  code: string;
  /** `lib/` files that the kernel uses, appended in this order. */
  lib?: readonly KernelSource[];
}

/** A knob's value: `const NAME: u32|i32|f32|bool = value;`, or the type name of an `alias NAME = type;`. */
export type KnobValue = number | boolean | string;

/** Begins the line above each file's text in a specialized source: what follows is the file's name. */
export const FILE_MARK = "// ---- ";

const knobLine = (name: string) =>
  new RegExp(`^(?:const ${name}\\s*:\\s*(u32|i32|f32|bool)\\s*=\\s*[^;]+;|alias ${name}\\s*=\\s*[^;]+;)`, "m");

/** Writes a value as a WGSL literal of the type. */
function literal(where: string, name: string, type: string, value: KnobValue): string {
  if (type === "bool" && typeof value === "boolean") return String(value);
  if (type === "u32" && Number.isInteger(value) && (value as number) >= 0) return `${value}u`;
  if (type === "i32" && Number.isInteger(value)) return `${value}i`;
  if (type === "f32" && typeof value === "number" && Number.isFinite(value)) {
    const text = String(Math.fround(value));
    return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
  }
  throw new OptionError(`specialize(${where}): expected knob ${name} to be a ${type}, got ${String(value)}`);
}

/**
 * The kernel's source with its knobs replaced by name. A knob is one line that starts with `const NAME: type = ...;` or
 * `alias NAME = type;`. Knobs that are not named keep the file's default.
 * @throws {OptionError} for a knob that the file does not have, or a value of another type.
 */
export function specialize(kernel: KernelSource, knobs: Readonly<Record<string, KnobValue>> = {}): string {
  const parts = [kernel, ...(kernel.lib ?? [])];
  let source = parts.map((part) => `${FILE_MARK}${part.file}\n${part.code.trimEnd()}\n`).join("\n");
  for (const [name, value] of Object.entries(knobs)) {
    const match = knobLine(name).exec(source);
    if (!match) throw new OptionError(`specialize(${kernel.file}): no knob named ${name}`);
    const type = match[1];
    if (!type && typeof value !== "string")
      throw new OptionError(`specialize(${kernel.file}): expected alias ${name} to be a type name, got ${value}`);
    const line = type
      ? `const ${name}: ${type} = ${literal(kernel.file, name, type, value)};`
      : `alias ${name} = ${value};`;
    source = source.slice(0, match.index) + line + source.slice(match.index + match[0].length);
  }
  source = unroll(source);
  const enables: string[] = [];
  if (/\bf16\b/.test(source.replace(/\/\/.*$/gm, ""))) enables.push("enable f16;");
  if (/\b(?:subgroup|quad)[A-Z]\w*\s*\(|@builtin\(subgroup_/.test(source.replace(/\/\/.*$/gm, "")))
    enables.push("enable subgroups;");
  return enables.length > 0 ? `${enables.join("\n")}\n${source}` : source;
}
