/**
 * `npm run needle`: the default model looks for a needle at 11 depths of texts of 1K to 64K tokens, in headless Chrome on a
 * ring of 4. Writes bench/results/needle.json and needle.md (the grid, as in the README) after every cell, and ends with 1
 * where a needle was missed. The whole grid takes hours on a CPU; `--continue` keeps the cells that are there already.
 *
 *     npm run needle -- [--lengths 1024,4096] [--depths 0,50,100] [--world-size 4] [--layout zigzag] [--kv gpu|host]
 *                       [--chunk 2048] [--adapter swiftshader|default] [--continue]
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { NeedleCell, NeedleJob } from "../bench/jobs/needle.ts";
import { quantile } from "../bench/statistics.ts";
import { runInPage } from "../src/cli/harness.ts";
import { builtFolder } from "../src/cli/paths.ts";
import { formatBytes } from "../src/cli/terminal.ts";
import type { BlockMemory, RingLayout } from "../src/index.ts";

const { values } = parseArgs({
  options: {
    lengths: { type: "string", default: "1024,2048,4096,8192,16384,32768,65536" },
    depths: { type: "string", default: "0,10,20,30,40,50,60,70,80,90,100" },
    "world-size": { type: "string", default: "4" },
    layout: { type: "string", default: "zigzag" },
    kv: { type: "string", default: "gpu" },
    chunk: { type: "string", default: "2048" },
    adapter: { type: "string" },
    continue: { type: "boolean", default: false },
  },
});
const lengths = values.lengths.split(",").map(Number);
const depths = values.depths.split(",").map(Number);
const ring = {
  worldSize: Number(values["world-size"]),
  layout: values.layout as RingLayout,
  blockMemory: values.kv as BlockMemory,
};

interface NeedleResult {
  date: string;
  adapter?: string;
  ring: NeedleJob["ring"];
  prefillChunkSize: number;
  cells: NeedleCell[];
}

const folder = join(fileURLToPath(new URL("..", import.meta.url)), "bench", "results");
const file = join(folder, "needle.json");
const before: Partial<NeedleResult> = values.continue && existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
const result: NeedleResult = {
  date: new Date().toISOString().slice(0, 10),
  adapter: before.adapter,
  ring,
  prefillChunkSize: Number(values.chunk),
  cells: [...(before.cells ?? [])],
};

/** 1024 -> "1K". */
const inK = (length: number) => (length % 1024 === 0 ? `${length / 1024}K` : String(length));

/** Depths down, lengths across. */
function markdown({ cells }: NeedleResult): string {
  const columns = [...new Set(cells.map(({ length }) => length))].sort((a, b) => a - b);
  const rows = [...new Set(cells.map(({ depth }) => depth))].sort((a, b) => a - b);
  const mark = (length: number, depth: number) => {
    const cell = cells.find((one) => one.length === length && one.depth === depth);
    return cell ? (cell.isFound ? "✓" : "✗") : "";
  };
  const seconds = (length: number) => {
    const times = cells.filter((cell) => cell.length === length).map((cell) => cell.prefillSeconds);
    const median = quantile(times, 0.5);
    return `${median.toFixed(median < 10 ? 1 : 0)} s`;
  };
  const line = (first: string, rest: string[]) => `| ${[first, ...rest].join(" | ")} |`;
  return [
    line("depth \\ tokens", columns.map(inK)),
    line(
      "--:",
      columns.map(() => ":-:"),
    ),
    ...rows.map((depth) =>
      line(
        `${depth}%`,
        columns.map((length) => mark(length, depth)),
      ),
    ),
    line("prefill (median)", columns.map(seconds)),
    "",
  ].join("\n");
}

function save(): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
  writeFileSync(join(folder, "needle.md"), markdown(result));
}

const isDone = (length: number, depth: number) =>
  (before.cells ?? []).some((cell) => cell.length === length && cell.depth === depth && cell.isFound);
const cells = lengths
  .flatMap((length) => depths.map((depth) => ({ length, depth })))
  .filter(({ length, depth }) => !isDone(length, depth));
const job: NeedleJob = { cells, ring, prefillChunkSize: result.prefillChunkSize };

result.adapter = await runInPage<string, NeedleCell>(
  "needle",
  { source: "/model/", job },
  {
    adapter: values.adapter as "swiftshader" | "default" | undefined,
    mounts: [{ path: "/model/", folder: builtFolder("demo/models/default") }],
    onEvent: (cell) => {
      result.cells = result.cells.filter((one) => one.length !== cell.length || one.depth !== cell.depth);
      result.cells.push(cell);
      save();
      const { length, depth, isFound, prefillSeconds, peakGpuBytes, answer } = cell;
      const verdict = isFound ? "found" : `MISSED, answered ${JSON.stringify(answer)}`;
      console.error(
        `${inK(length)} at ${depth}%: ${verdict}; prefill ${prefillSeconds.toFixed(1)} s, peak ${formatBytes(peakGpuBytes)}`,
      );
    },
    log: (line) => console.error(line),
  },
);
save();
const missed = result.cells.filter(({ isFound }) => !isFound).length;
console.log(`${markdown(result)}\n${result.cells.length - missed} of ${result.cells.length} needles found`);
process.exit(missed > 0 ? 1 : 0);
