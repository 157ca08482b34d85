/** What the bundle adds to the bench's own tables: correctness, the ratio to torch, and what was left out. */
import { isRight } from "../benchmarks/documents.ts";
import { figure, markdownTable, times } from "../benchmarks/format.ts";
import type { BenchDocument, BenchResult } from "../result-types.ts";
import type { ConformanceResult } from "./conformance.ts";

/** What is written beside the document's own tables. */
export interface BundleReport {
  document: BenchDocument;
  correctness: readonly ConformanceResult[];
  /** Sentences: no torch, time was up, a CPU adapter where a GPU seems to be. */
  notes: readonly string[];
}

const count = (results: readonly ConformanceResult[], status: ConformanceResult["status"]) =>
  results.filter((result) => result.status === status).length;

/** One row per kernel and dtype: how many cases were right, wrong, refused, not run; the largest error of the right ones. */
export function correctnessRows(results: readonly ConformanceResult[]): string[][] {
  const groups = new Map<string, ConformanceResult[]>();
  for (const result of results) {
    const key = `${result.implementation}\n${result.dtype}`;
    groups.set(key, [...(groups.get(key) ?? []), result]);
  }
  return [...groups].map(([key, group]) => {
    const [implementation = "", dtype = ""] = key.split("\n");
    const errors = group.flatMap(({ status, maxError }) =>
      status === "ok" && maxError !== undefined ? [maxError] : [],
    );
    return [
      ...[implementation, dtype, `${count(group, "ok")}`, `${count(group, "wrong") + count(group, "failed")}`],
      ...[`${count(group, "unsupported")}`, `${count(group, "not run")}`],
      errors.length > 0 ? Math.max(...errors).toExponential(1) : "",
    ];
  });
}

/** A case and dtype with both sides' medians. `ratio`: torch's time over ours, so above 1 means that we are faster. */
export interface TorchRatio {
  case: string;
  dtype: "f32" | "f16";
  ours: BenchResult;
  torch: BenchResult;
  /** Absent where either side is wrong or failed. */
  ratio?: number;
}

/** Our fastest correct row of every case and dtype that torch has a row of. */
export function torchRatios(results: readonly BenchResult[]): TorchRatio[] {
  return results
    .filter(({ contender }) => contender === "torch")
    .flatMap((torch) => {
      const dtype = torch.dtype ?? "f32";
      const rows = results.filter(
        (row) =>
          row.case === torch.case && (row.dtype ?? "f32") === dtype && (row.contender ?? "ringwise") === "ringwise",
      );
      const right = rows.filter(isRight).sort((a, b) => a.timeMs!.median - b.timeMs!.median)[0];
      const ours = right ?? rows[0];
      if (!ours) return [];
      const ratio = right && isRight(torch) ? torch.timeMs!.median / right.timeMs!.median : undefined;
      return [{ case: torch.case, dtype, ours, torch, ...(ratio !== undefined && { ratio }) }];
    });
}

const milliseconds = (result: BenchResult) => (result.timeMs ? figure(result.timeMs.median, 4) : "failed");
const errorOf = ({ maxError }: BenchResult) => maxError?.toExponential(1) ?? "";

function torchSection({ document }: BundleReport): string[] {
  const ratios = torchRatios(document.results);
  if (ratios.length === 0) return [];
  const header = ["case", "dtype", "torch ran", "Ringwise ms", "torch ms", "ratio", "our error", "torch's error"];
  const rows = ratios.map(({ ours, torch, ratio, ...about }) => [
    ...[about.case, about.dtype, torch.reason ?? torch.implementation, milliseconds(ours), milliseconds(torch)],
    ...[times(ratio), errorOf(ours), errorOf(torch)],
  ]);
  return [
    "## Against torch.nn.functional.scaled_dot_product_attention",
    "Median of one run; the ratio is torch's time over Ringwise's, so above 1 Ringwise is faster.",
    markdownTable(header, rows, 3),
  ];
}

/** The whole page; `tables` are those that the bench writes for any document. */
export function bundleMarkdown({ document, correctness, notes }: BundleReport, tables: string): string {
  const bad = correctness.filter(({ status }) => status === "wrong" || status === "failed");
  const header = ["kernel", "dtype", "right", "wrong", "not for this device", "not run", "largest error"];
  const blocks = [
    `# Ringwise on ${document.adapter}`,
    `\`${document.command ?? "./start"}\``,
    notes.map((sentence) => `- ${sentence}`).join("\n"),
    "## Correctness",
    "The conformance cases against the float64 oracle; allowed is twice the error of a plain computation of the same precision.",
    markdownTable(header, correctnessRows(correctness), 2),
    bad.map((b) => `- **${b.status}**: ${b.case}, ${b.dtype}, ${b.implementation}: ${b.reason ?? ""}`).join("\n"),
    ...torchSection({ document, correctness, notes }),
    tables.trim(),
  ];
  return `${blocks.filter(Boolean).join("\n\n")}\n`;
}
