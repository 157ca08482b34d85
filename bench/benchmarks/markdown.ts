/** BENCHMARKS.md, from the recorded documents alone: the same documents give the same text. */
import { type RecordedDocument, type Section, sectionsOf } from "./documents.ts";
import { type Plot, plotsOf } from "./plot-specs.ts";
import { againstBlocks, originBlocks, ownBlocks, peakSentence } from "./section.ts";
import { targetTable } from "./tables.ts";

/** Where the plots lie, from BENCHMARKS.md. */
export const PLOT_FOLDER = "bench/plots";

const HEAD = [
  "<!-- Written by `ringwise bench --report` from bench/results/*.json. Changes made by hand are lost. -->",
  "# Benchmarks",
  "What Ringwise does on the adapters at hand, beside every other attention for WebGPU, in numbers that `ringwise bench` measured and this page's writer copied: nothing here is typed by hand, and what falls short of its target is shown as well.",
];

const WORDS = `How to read it:

- A time is the **median** of repeated runs, taken in turn with the others of its table (A B C A B C ...), after a warm-up of its own. The spread is the distance of the quartiles as a share of the median: on a machine that does other work it is large, and small differences mean nothing.
- **GFLOP/s** count the multiplications and additions that visible pairs need, so causal attention is not credited with what it skips. **Of FMA peak** is the share of the most multiply-adds that the adapter does (\`shaders/fma-peak.wgsl\`), **of read bandwidth** the share of the most bytes that it reads (\`shaders/read-peak.wgsl\`), both measured in turn with the case.
- Every result is held against a float64 oracle. Ours may err at most twice as much as a plain computation of the same precision; peers only have to be right in the first three digits. **wrong** ran and gave another result, **failed** threw or could not be asked.
- Case names are shapes: \`prefill-N\` is N tokens, 8 heads x 64, \`decode-N\` one query against N keys; all of them stand in \`test/cases.ts\`. \`design-...\` forces a kernel that the adapter would not choose.`;

const picture = ({ name, alt }: Plot) =>
  [
    "<picture>",
    `  <source media="(prefers-color-scheme: dark)" srcset="${PLOT_FOLDER}/${name}-dark.svg">`,
    `  <img alt="${alt.replace(/"/g, "&quot;")}" src="${PLOT_FOLDER}/${name}-light.svg">`,
    "</picture>",
  ].join("\n");

const sectionBlocks = (section: Section): string[] => [
  ...[`## ${section.title}`, ...originBlocks(section), peakSentence(section)],
  ...plotsOf(section).map(picture),
  ...againstBlocks(section.against, "###"),
  ...ownBlocks(section.own, "###"),
];

/** The whole page, and the plots that it shows. */
export function benchmarksMarkdown(recorded: readonly RecordedDocument[]): { text: string; plots: Plot[] } {
  const sections = sectionsOf(recorded);
  const hasGpu = sections.some(({ isCpu }) => !isCpu);
  const blocks = [
    ...HEAD,
    ...["## Targets", "What misses its target is set bold.", targetTable(sections)],
    hasGpu
      ? ""
      : "No GPU was at hand: every adapter here runs on the processor. Rankings on such adapters say nothing about GPUs.",
    WORDS,
    ...sections.flatMap(sectionBlocks),
  ];
  return { text: `${blocks.filter(Boolean).join("\n\n")}\n`, plots: sections.flatMap(plotsOf) };
}
