/** The Markdown of one section: tables of rows, each family under its own heading. */
import type { BenchResult } from "../result-types.ts";
import type { Section } from "./documents.ts";
import { figure } from "./format.ts";
import {
  contenderTable,
  duelMemoryTable,
  duelTable,
  failureLines,
  figuresTable,
  isAttention,
  modelDuelTable,
  ownTable,
} from "./tables.ts";

/** Paragraphs, tables and headings, to be joined by empty lines. */
export type Blocks = string[];

const titled = (title: string, blocks: Blocks): Blocks => (blocks.length > 0 ? [title, ...blocks] : []);

/** Peers and Ringwise side by side: times, memory, models, what failed, and every figure folded away below. */
export function againstBlocks(rows: readonly BenchResult[], heading: string): Blocks {
  const attention = rows.filter(isAttention);
  const models = rows.filter(({ group }) => group === "model");
  const failures = failureLines(rows);
  return [
    ...titled(
      `${heading} Attention, side by side`,
      attention.length === 0
        ? []
        : [
            "Median milliseconds of one run; what is wrong or failed takes part in no ratio.",
            duelTable(attention),
            "Peak GPU memory, counted at `createBuffer`: inputs, outputs and everything else.",
            duelMemoryTable(attention),
          ],
    ),
    ...titled(`${heading} Models, side by side`, models.length === 0 ? [] : [modelDuelTable(models)]),
    ...titled(`${heading} What failed, and why`, failures.length === 0 ? [] : [failures.join("\n")]),
    ...(rows.length === 0
      ? []
      : [`<details><summary>Every figure of the comparison</summary>\n\n${contenderTable(rows)}\n\n</details>`]),
  ];
}

/** Parts of a model's layer are told per part, with the nearer of the two peaks. */
const isPart = ({ group, timeMs }: BenchResult) => group === "model" && timeMs !== undefined;

const FAMILIES: readonly { title: string; isOf(row: BenchResult): boolean }[] = [
  { title: "Attention", isOf: (row) => row.group === "attention" },
  { title: "Matmul", isOf: (row) => row.group === "matmul" },
  { title: "Chunked MLP", isOf: (row) => row.group === "memory" },
  { title: "A model's layer, part by part", isOf: isPart },
  { title: "Peaks of the adapter, and the small kernels", isOf: (row) => row.group === "bandwidth" },
];

/** Our own rows, by family. */
export function ownBlocks(rows: readonly BenchResult[], heading: string): Blocks {
  const timed = rows.filter(({ timeMs }) => timeMs !== undefined);
  const figures = rows.filter(({ group, timeMs, status = "ok" }) => status === "ok" && (group === "ring" || !timeMs));
  const failures = failureLines(rows);
  return [
    ...FAMILIES.flatMap(({ title, isOf }) => {
      const family = timed.filter(isOf);
      return titled(`${heading} ${title}`, family.length === 0 ? [] : [ownTable(family)]);
    }),
    ...(["ring", "model"] as const).flatMap((group) => {
      const family = figures.filter((row) => row.group === group && row.figures);
      const title = group === "ring" ? "A ring of buffers over one block" : "Models";
      return titled(`${heading} ${title}`, family.length === 0 ? [] : [figuresTable(family)]);
    }),
    ...titled(`${heading} What is wrong or failed`, failures.length === 0 ? [] : [failures.join("\n")]),
  ];
}

/** Where, when and how the section's documents were measured. */
export function originBlocks({ adapter, documents }: Section): Blocks {
  const lines = documents.map(({ file, document }) => {
    const versions = Object.entries(document.versions ?? {}).map(
      ([name, version]) => `${name} ${version.replace(/^(?:Headless)?Chrome\//, "")}`,
    );
    const facts = [
      document.date.slice(0, 16).replace("T", " "),
      document.machine,
      ...(versions.length > 0 ? versions : [document.host, `ringwise ${document.ringwise}`]),
    ];
    return `- \`${file}\`: ${facts.join(", ")}`;
  });
  const commands = [...new Set(documents.flatMap(({ document }) => document.command ?? []))];
  const code = commands.length > 0 ? ["```sh", ...commands, "```"].join("\n") : "";
  return [`The adapter calls itself \`${adapter}\`.`, lines.join("\n"), code];
}

/** One sentence with the adapter's peaks, where they were measured. */
export function peakSentence({ own }: Section): string {
  const gflops = own.find(({ case: name }) => name === "fma-peak")?.gflops;
  const gBps = own.find(({ case: name }) => name === "read-peak")?.readGBps;
  const parts = [gflops && `${figure(gflops)} GFLOP/s of multiply-adds`, gBps && `${figure(gBps)} GB/s read`];
  const told = parts.filter(Boolean).join(" and ");
  return told
    ? `This adapter's measured peaks: ${told}. Every share is of the peak measured in turn with its case.`
    : "";
}
