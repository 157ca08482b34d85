/** What `ringwise bench` prints: the results as a table, and what changed since another run. */
import { type Comparison, MOST_LOSS } from "../../bench/compare.ts";
import type { BenchDocument, BenchResult } from "../../bench/result-types.ts";
import { formatBytes, formatTable } from "./terminal.ts";

const percent = (value: number | undefined, digits = 0) =>
  value === undefined ? "-" : `${(100 * value).toFixed(digits)}%`;

const HEADER = [
  ...["case", "dtype", "implementation", "median ms", "min", "spread", "GFLOP/s", "of peak", "GB/s", "of bandwidth"],
  ...["extra", "max error", ""],
];

function rowOf(result: BenchResult): string[] {
  const figures = Object.entries(result.figures ?? {}).map(
    ([name, value]) => `${name} ${Number(value.toPrecision(4))}`,
  );
  const { status = "ok", reason = "" } = result;
  return [
    result.case,
    result.dtype ?? "",
    result.implementation,
    result.timeMs?.median.toFixed(2) ?? "-",
    result.timeMs?.min.toFixed(2) ?? "-",
    percent(result.timeMs?.spread, 1),
    result.gflops?.toFixed(2) ?? "-",
    percent(result.peakShare),
    result.readGBps?.toFixed(2) ?? "-",
    percent(result.bandwidthShare),
    result.extraBytes === undefined ? "-" : formatBytes(result.extraBytes),
    result.maxError === undefined ? "-" : `${result.maxError.toExponential(1)} (${result.errorRows} rows)`,
    [...(status === "ok" ? [] : [`${status.toUpperCase()}: ${reason}`]), ...figures].join(", "),
  ];
}

/** The document's results as a table. */
export const resultsText = ({ adapter, results }: BenchDocument): string =>
  `adapter: ${adapter}\n${formatTable([HEADER, ...results.map(rowOf)])}`;

/** A comparison: notes, a line per change, and a last sentence with what was lost. */
export function comparisonText(comparison: Comparison): string {
  const { changes, notes, onlyBefore, onlyAfter } = comparison;
  const rows = changes.map((change) => [
    ...[change.case, change.dtype, change.implementation, change.measure],
    ...[change.before, change.after].map((value) => String(Number(value.toPrecision(4)))),
    `${change.relative >= 0 ? "+" : ""}${percent(change.relative, 1)}`,
    `${change.verdict}${change.isLoss ? " (LOSS)" : ""}`,
  ]);
  const header = ["case", "dtype", "implementation", "measure", "before", "after", "change", "verdict"];
  const losses = changes.filter(({ isLoss }) => isLoss).length;
  const alone = (names: readonly string[], when: string) =>
    names.length > 0 ? [`only in the ${when} run: ${names.join(", ")}`] : [];
  return [
    ...notes,
    rows.length > 0 ? formatTable([header, ...rows]) : "no case is in both runs",
    ...[...alone(onlyBefore, "old"), ...alone(onlyAfter, "new")],
    losses > 0 ? `${losses} lost more than ${percent(MOST_LOSS)}` : `nothing lost more than ${percent(MOST_LOSS)}`,
  ].join("\n");
}
