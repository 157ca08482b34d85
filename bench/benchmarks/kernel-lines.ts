/** The line in every kernel file's header that says how fast it was measured: made from the recorded documents, like the report. */
import type { BenchResult } from "../result-types.ts";
import { isRight, type Section } from "./documents.ts";
import { figure, percent } from "./format.ts";

/**
 * Cases that tell most of a kernel, best first. A file that is not named here, or whose cases were not measured, is told by
 * the first measured case that ran it.
 */
const TELLING_CASES: Readonly<Record<string, readonly string[]>> = {
  "attention.wgsl": ["prefill-1024", "design-register-512"],
  "attention-stationary.wgsl": ["prefill-1024", "prefill-4096"],
  "attention-decode.wgsl": ["decode-16384", "decode-4096"],
  "attention-few.wgsl": ["decode-16384", "decode-4096", "design-few-4096"],
  "attention-tile.wgsl": ["prefill-1024", "design-tile-512"],
  "attention-vanilla.wgsl": ["design-vanilla-512"],
  "matmul.wgsl": ["matmul-1024", "design-matmul-register-512"],
  "matmul-subgroup.wgsl": ["matmul-1024"],
  "matmul-tile.wgsl": ["matmul-1024", "design-matmul-tile-512"],
  "matmul-decode.wgsl": ["matmul-decode-2048-8192"],
  "finalize.wgsl": ["kernel-finalize"],
  "merge.wgsl": ["kernel-merge"],
};

/** Begins the line; nothing else in a kernel file does. */
const MARK = "// Bench: ";
const LINE = /^\/\/ Bench: .*$/m;

/** Kernels that were measured nowhere say so. */
const UNMEASURED = "not measured.";

function tellingRow(file: string, { own }: Section): BenchResult | undefined {
  const rows = own.filter((row) => isRight(row) && row.kernels?.includes(file));
  // A row of a kernel alone tells more of it than one in which it takes part.
  const alone = [...rows].sort((a, b) => a.kernels!.length - b.kernels!.length);
  const named = TELLING_CASES[file]?.flatMap((name) => rows.filter((row) => row.case === name)) ?? [];
  return named[0] ?? alone[0];
}

function rowText(row: BenchResult): string {
  const gflops =
    row.gflops && `${figure(row.gflops)} GFLOP/s${row.peakShare ? ` (${percent(row.peakShare)} of FMA peak)` : ""}`;
  const gBps =
    row.readGBps &&
    `${figure(row.readGBps)} GB/s${row.bandwidthShare ? ` (${percent(row.bandwidthShare)} of read bandwidth)` : ""}`;
  // What reading bounds is told by its bytes.
  const speed = row.bandwidthShare ? gBps : (gflops ?? gBps);
  return [`${row.case} ${row.dtype ?? "f32"} ${figure(row.timeMs!.median)} ms`, speed].filter(Boolean).join(", ");
}

/** The line of one kernel file. */
export function benchLine(file: string, sections: readonly Section[]): string {
  const told = sections.flatMap((section) => {
    const row = tellingRow(file, section);
    return row ? [`${section.title}: ${rowText(row)}`] : [];
  });
  return `${MARK}${told.length > 0 ? `${told.join("; ")}.` : UNMEASURED}`;
}

/** The file's text with that line: in place of the one it has, or at the end of its opening comment. */
export function withBenchLine(text: string, line: string): string {
  if (LINE.test(text)) return text.replace(LINE, () => line);
  const header = /^(?:\/\/.*\n)*/.exec(text)![0];
  return `${header}${line}\n${text.slice(header.length)}`;
}

/** The line that a file carries now. */
export const benchLineOf = (text: string): string | undefined => LINE.exec(text)?.[0];
