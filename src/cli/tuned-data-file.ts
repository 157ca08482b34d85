/** src/kernels/tuned-data.json, the choices that the library ships: only this tool ever edits it. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ShippedAdapter } from "../index.ts";
import { UsageError } from "./errors.ts";
import { packageRoot } from "./paths.ts";

/** The file in a checkout of Ringwise. @throws {UsageError} where there is none: an installed package holds no sources. */
export function shippedFile(): string {
  const file = join(packageRoot(), "src", "kernels", "tuned-data.json");
  if (existsSync(file)) return file;
  throw new UsageError(`--write: ${file} is missing; shipped data is written in a checkout of Ringwise's sources`);
}

const byName = (a: string, b: string) => (a < b ? -1 : 1);

/** Shipped data with an adapter's new choices in place of the old; classes that were not tuned now keep theirs. */
export function mergeShipped(before: readonly ShippedAdapter[], data: ShippedAdapter): ShippedAdapter[] {
  const old = before.find(({ adapter }) => adapter === data.adapter);
  const choices = Object.entries({ ...old?.choices, ...data.choices }).sort(([a], [b]) => byName(a, b));
  const merged = { ...data, choices: Object.fromEntries(choices) };
  return [...before.filter((entry) => entry !== old), merged].sort((a, b) => byName(a.adapter, b.adapter));
}

/** Merges an adapter's choices into the file as it is now; a program that is interrupted leaves it whole. */
export function writeShipped(file: string, data: ShippedAdapter): void {
  const before = JSON.parse(readFileSync(file, "utf8")) as ShippedAdapter[];
  const beside = `${file}.${process.pid}.new`;
  writeFileSync(beside, `${JSON.stringify(mergeShipped(before, data), null, 2)}\n`);
  renameSync(beside, file);
}
