/** The tables of BENCHMARKS.md: peers side by side, our own cases, targets. */
import { BENCH_CASES } from "../../test/cases.ts";
import type { BenchResult } from "../result-types.ts";
import { contenderOf, duelsOf, isRight, type Section } from "./documents.ts";
import { figure, markdownTable, mebibytes, percent, times } from "./format.ts";
import { type Outcome, outcomesOf, TARGETS } from "./targets.ts";

const median = (row: BenchResult | undefined) => figure(row?.timeMs?.median);

/** What a cell says of a row: its figure where it is right, else its status. */
const told = (row: BenchResult | undefined, value: (row: BenchResult) => string): string => {
  if (!row) return "not asked";
  return isRight(row) ? value(row) : (row.status ?? "no time");
};

const caseName = ({ case: name, dtype = "f32" }: { case: string; dtype?: string }) =>
  dtype === "f16" ? `${name}, f16` : name;

/** Peers in order of first appearance; one that was asked in several ways (operators) has a column for each. */
function columnsOf(
  rows: readonly BenchResult[],
): { title: string; of(rows: readonly BenchResult[]): BenchResult | undefined }[] {
  const contenders = [...new Set(rows.map(contenderOf))].filter((name) => name !== "ringwise");
  return contenders.flatMap((name) => {
    const mine = rows.filter((row) => contenderOf(row) === name);
    const implementations = [...new Set(mine.map(({ implementation }) => implementation))].filter((it) => it !== "-");
    const cases = mine.map(caseName);
    if (new Set(cases).size === cases.length)
      return [{ title: name, of: (others: readonly BenchResult[]) => others.find((row) => contenderOf(row) === name) }];
    return implementations.map((implementation) => ({
      title: `${name}: ${implementation}`,
      of: (others: readonly BenchResult[]) =>
        // What failed before it could say how it computes has no name for it.
        others.find((row) => contenderOf(row) === name && [implementation, "-"].includes(row.implementation)),
    }));
  });
}

/** Median milliseconds of all, and how many times faster we are than the fastest correct peer. */
export function duelTable(rows: readonly BenchResult[]): string {
  const columns = columnsOf(rows);
  return markdownTable(
    [
      "case",
      "Ringwise ms",
      ...columns.map(({ title }) => `${title} ms`),
      "fastest correct peer",
      "times faster",
      "at minimum",
    ],
    duelsOf(rows).map((duel) => [
      caseName(duel),
      told(duel.ours, median),
      ...columns.map((column) => told(column.of(duel.peers), median)),
      duel.peer ? contenderOf(duel.peer) : "none",
      times(duel.timesFaster),
      times(duel.timesFasterAtMinimum),
    ]),
  );
}

/** Peak MiB of all, beside what query, key, value and output take. */
export function duelMemoryTable(rows: readonly BenchResult[]): string {
  const columns = columnsOf(rows);
  const peak = (row: BenchResult) => mebibytes(row.peakBytes);
  return markdownTable(
    ["case", "Q, K, V, O MiB", "Ringwise MiB", "of Q, K, V, O", ...columns.map(({ title }) => `${title} MiB`)],
    duelsOf(rows).map(({ ours, peers, ...duel }) => [
      caseName(duel),
      mebibytes(ours?.tensorBytes),
      told(ours, peak),
      ours?.peakBytes && ours.tensorBytes ? `${(ours.peakBytes / ours.tensorBytes).toFixed(2)}x` : "",
      ...columns.map((column) => told(column.of(peers), peak)),
    ]),
  );
}

/** Everything that was measured of each contender. */
export const contenderTable = (rows: readonly BenchResult[]): string =>
  markdownTable(
    [
      ...["case", "contender", "what ran", "median ms", "min ms", "spread", "samples", "GPU process s", "GFLOP/s"],
      ...["of FMA peak", "peak MiB", "max error", "status"],
    ],
    rows.map((row) => [
      ...[caseName(row), contenderOf(row), row.implementation, median(row), figure(row.timeMs?.min)],
      ...[percent(row.timeMs?.spread), row.timeMs ? `${row.timeMs.samples.length}` : "", figure(row.cpuSeconds)],
      ...[figure(row.gflops), percent(row.peakShare), mebibytes(row.peakBytes)],
      ...[row.maxError?.toExponential(1) ?? "", row.status ?? "ok"],
    ]),
    3,
  );

/** Tokens a second of models, side by side. */
export function modelDuelTable(rows: readonly BenchResult[]): string {
  const columns = columnsOf(rows);
  const speed = (row: BenchResult) => figure(row.figures?.tokensPerSecond);
  return markdownTable(
    [
      ...["case", "Ringwise tokens/s", ...columns.map(({ title }) => `${title} tokens/s`), "times faster"],
      ...["of FMA peak", "of read bandwidth", "peak MiB"],
    ],
    duelsOf(rows).map((duel) => [
      ...[caseName(duel), told(duel.ours, speed), ...columns.map((column) => told(column.of(duel.peers), speed))],
      ...[times(duel.timesFaster), percent(duel.ours?.peakShare), percent(duel.ours?.bandwidthShare)],
      mebibytes(duel.ours?.peakBytes),
    ]),
  );
}

/** One line per failure; cases that fail in the same words are told together. */
export function failureLines(rows: readonly BenchResult[]): string[] {
  const byWords = new Map<string, string[]>();
  for (const row of rows) {
    if ((row.status ?? "ok") === "ok") continue;
    const who = contenderOf(row) === "ringwise" ? "Ringwise itself" : contenderOf(row);
    const words = `${who}, ${row.status}: ${row.reason ?? "no reason was given."}`;
    byWords.set(words, [...(byWords.get(words) ?? []), caseName(row)]);
  }
  return [...byWords].map(([words, cases]) => `- ${words} (${cases.join(", ")})`);
}

/** The kernel files without their ending, or what the row calls itself. */
const whatRan = ({ kernels = [], implementation }: BenchResult) =>
  kernels.length > 0 ? kernels.map((file) => file.replace(/\.wgsl$/, "")).join(", ") : implementation;

/** Our own cases. */
export const ownTable = (rows: readonly BenchResult[]): string =>
  markdownTable(
    [
      ...["case", "what ran", "median ms", "min ms", "spread", "GFLOP/s", "of FMA peak", "GB/s", "of read bandwidth"],
      ...["MiB beyond tensors", "max error", "status"],
    ],
    rows.map((row) => [
      ...[caseName(row), whatRan(row)],
      ...[
        median(row),
        figure(row.timeMs?.min),
        percent(row.timeMs?.spread),
        figure(row.gflops),
        percent(row.peakShare),
      ],
      ...[figure(row.readGBps), percent(row.bandwidthShare), mebibytes(row.extraBytes)],
      ...[row.maxError?.toExponential(1) ?? "", row.status ?? "ok"],
    ]),
    2,
  );

/** Rows that hold figures by name. */
export function figuresTable(rows: readonly BenchResult[]): string {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.figures ?? {})))];
  return markdownTable(
    ["case", "what ran", ...names],
    rows.map((row) => [
      ...[caseName(row), row.implementation],
      ...names.map((name) =>
        /bytes$/i.test(name) ? mebibytesNamed(row.figures?.[name]) : figure(row.figures?.[name], 4),
      ),
    ]),
    2,
  );
}

const mebibytesNamed = (bytes: number | undefined) => (bytes === undefined ? "" : `${mebibytes(bytes)} MiB`);

const outcomeText = ({ case: name, figure: text, isReached }: Outcome) =>
  isReached ? `${name}: ${text}` : `**${name}: ${text}**`;

/** Every target of every adapter that it is for; what misses it is set bold. */
export function targetTable(sections: readonly Section[]): string {
  const rows = TARGETS.flatMap((target) =>
    sections
      .filter((section) => target.isFor(section))
      .map((section) => {
        const outcomes = outcomesOf(target, section);
        const reached = outcomes.filter(({ isReached }) => isReached).length;
        const verdict =
          outcomes.length === 0
            ? "not measured"
            : reached === outcomes.length
              ? "reached"
              : reached === 0
                ? "missed"
                : `reached in ${reached} of ${outcomes.length}`;
        return [target.text, section.title, verdict, outcomes.map(outcomeText).join("; ")];
      }),
  );
  return markdownTable(["target", "adapter", "result", "figures"], rows, 4);
}

/** Keys of a case: what decode is plotted over. */
export const keysOf = (name: string): number | undefined => BENCH_CASES.find((shape) => shape.name === name)?.kvSeqLen;

/** Whether a duel's rows tell of attention (models have a table of their own). */
export const isAttention = ({ group }: BenchResult) => group === "attention";
