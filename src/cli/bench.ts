/** `ringwise bench`: named cases in headless Chrome (or in Node): a table, JSON, and a report page with plots. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import { Command, Option } from "commander";
import { caseNames } from "../../bench/cases.ts";
import { type Change, compareRuns } from "../../bench/compare.ts";
import { runBench } from "../../bench/jobs/run.ts";
import { reportHtml } from "../../bench/report.ts";
import type { BenchAnswer, BenchDocument, BenchEvent, BenchJob, BenchResult } from "../../bench/result-types.ts";
import { overlapTable, RING_BENCH_NOTES, ringBenchMarkdown, runRingBench, scalingTable } from "../../bench/ring/run.ts";
import { type AttentionDesign, type AttentionKind, describeAdapter } from "../index.ts";
import { benchAgainst, chooseAgainstCases, type PeerName, parsePeers } from "./bench-against.ts";
import { ensureChrome } from "./chrome.ts";
import { UsageError } from "./errors.ts";
import { runInPage } from "./harness.ts";
import { createNodeDevice } from "./node-device.ts";
import { integer, number } from "./parse.ts";
import { packageVersion } from "./paths.ts";
import { adapterOption, chromeAdapter, jsonOption, runtimeOption } from "./shared-options.ts";
import { formatBytes, formatTable, openTerminal, type Terminal } from "./terminal.ts";

interface BenchFlags {
  case?: string[];
  list?: boolean;
  ring?: true | "virtual" | "real";
  against?: PeerName[];
  contenderSeconds: number;
  adapter?: string;
  compare?: string;
  repeats: number;
  warmups: number;
  minSampleMs: number;
  attention: AttentionKind[];
  design: AttentionDesign;
  out: string;
  name?: string;
  runtime: "chrome" | "node";
  json?: boolean;
}

/** The names to run: all without `--case`; a trailing `*` stands for any ending. */
function chooseCases(asked: readonly string[] | undefined): string[] {
  if (!asked) return caseNames("default");
  const all = caseNames();
  const chosen = asked.flatMap((name) => {
    const found = name.endsWith("*") ? all.filter((other) => other.startsWith(name.slice(0, -1))) : [name];
    if (found.length === 0 || !all.includes(found[0]!))
      throw new UsageError(`--case ${name}: no such case (--list shows them all)`);
    return found;
  });
  return [...new Set(chosen)];
}

function readDocument(file: string): BenchDocument {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UsageError(`--compare ${file}: ${(error as Error).message}`);
  }
  if (!Array.isArray((parsed as Partial<BenchDocument> | null)?.results))
    throw new UsageError(`--compare ${file}: expected a result that "ringwise bench" wrote (with "results")`);
  return parsed as BenchDocument;
}

const percent = (value: number | undefined, digits = 0) =>
  value === undefined ? "-" : `${(100 * value).toFixed(digits)}%`;

function rowOf(result: BenchResult): string[] {
  return [
    result.case,
    result.implementation,
    result.timeMs?.median.toFixed(2) ?? "-",
    result.timeMs?.min.toFixed(2) ?? "-",
    percent(result.timeMs?.spread, 1),
    result.gflops?.toFixed(2) ?? "-",
    percent(result.peakShare),
    result.extraBytes === undefined ? "-" : formatBytes(result.extraBytes),
    result.maxError === undefined ? "-" : `${result.maxError.toExponential(1)} (${result.errorRows} rows)`,
    Object.entries(result.figures ?? {})
      .map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`)
      .join(", "),
  ];
}

const HEADER = ["case", "implementation", "median ms", "min", "spread", "GFLOP/s", "of peak", "extra", "max error", ""];

function formatChanges(changes: readonly Change[]): string {
  const rows = changes.map((change) => [
    change.case,
    change.implementation,
    change.measure,
    Number(change.before.toPrecision(4)).toString(),
    Number(change.after.toPrecision(4)).toString(),
    `${change.relative >= 0 ? "+" : ""}${percent(change.relative, 1)}`,
    change.verdict,
  ]);
  return formatTable([["case", "implementation", "measure", "before", "after", "change", "verdict"], ...rows]);
}

async function measure(
  flags: BenchFlags,
  job: BenchJob,
  log: (line: string) => void,
  onEvent: (e: BenchEvent) => void,
) {
  if (flags.runtime === "node") return runBench(await createNodeDevice(flags.adapter), job, onEvent);
  return runInPage<BenchAnswer, BenchEvent>("bench", job, { adapter: chromeAdapter(flags.adapter), onEvent, log });
}

/** A file name that sorts by date and says which adapter: "2026-11-23T21-08-12-google-swiftshader". */
const fileName = (document: BenchDocument) =>
  `${document.date.slice(0, 19).replace(/:/g, "-")}-${document.adapter
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 40)}`;

/** The ring over links, all of it in this process. */
async function benchRing(flags: BenchFlags, terminal: Terminal): Promise<void> {
  const clocks = typeof flags.ring === "string" ? [flags.ring] : (["virtual", "real"] as const);
  const device = clocks.some((clock) => clock === "real")
    ? await createNodeDevice(flags.adapter).catch((error: Error) => {
        terminal.log(`no rows with real kernels: ${error.message}`);
        return undefined;
      })
    : undefined;
  const job = { worldSizes: [2, 4, 8], clocks, repeats: flags.repeats, ...(device && { device }) };
  const result = await runRingBench(job, terminal.progress);
  const document = {
    ringwise: packageVersion(),
    date: new Date().toISOString(),
    host: `Node ${process.version}`,
    machine: `${cpus().length} x ${cpus()[0]?.model ?? "unknown processor"}`,
    adapter: device ? describeAdapter(device).name : "none",
    notes: RING_BENCH_NOTES,
    ...result,
  };
  const folder = resolve(flags.out);
  mkdirSync(folder, { recursive: true });
  const path = join(folder, flags.name ?? `ring-${document.date.slice(0, 19).replace(/:/g, "-")}`);
  writeFileSync(`${path}.json`, `${JSON.stringify(document, null, 1)}\n`);
  writeFileSync(`${path}.md`, ringBenchMarkdown(`The ring over links (${document.date.slice(0, 10)})`, result));
  const tables = [formatTable(overlapTable(result.overlap)), formatTable(scalingTable(result.scaling))];
  const lines = [RING_BENCH_NOTES.join("\n\n"), tables.join("\n\n"), `table: ${path}.md\nresult: ${path}.json`];
  terminal.result(document, lines.join("\n\n"));
  device?.destroy();
}

async function bench(flags: BenchFlags): Promise<void> {
  const terminal = openTerminal(flags.json === true);
  if (flags.ring) return benchRing(flags, terminal);
  if (flags.against) {
    const { against } = flags;
    if (!flags.list) return benchAgainst({ ...flags, against }, terminal);
    const names = chooseAgainstCases(flags.case ?? ["*"]);
    return terminal.result(names, names.join("\n"));
  }
  if (flags.list) return terminal.result(caseNames(), caseNames().join("\n"));
  const before = flags.compare === undefined ? undefined : readDocument(flags.compare);
  const cases = chooseCases(flags.case);
  const { warmups, repeats, minSampleMs, attention, design } = flags;
  const job: BenchJob = { cases, warmups, repeats, minSampleMs, attention, design };
  const host = flags.runtime === "node" ? `Node ${process.version}` : `Chrome: ${await ensureChrome(terminal.log)}`;
  const answer = await measure(flags, job, terminal.log, (event) => terminal.progress(event.message));
  const document: BenchDocument = {
    ringwise: packageVersion(),
    date: new Date().toISOString(),
    runtime: flags.runtime,
    host,
    machine: `${cpus().length} x ${cpus()[0]?.model ?? "unknown processor"}`,
    ...answer,
  };
  const folder = resolve(flags.out);
  mkdirSync(folder, { recursive: true });
  const path = join(folder, flags.name ?? fileName(document));
  writeFileSync(`${path}.json`, `${JSON.stringify(document, null, 1)}\n`);
  writeFileSync(`${path}.html`, reportHtml(document));
  const changes = before && compareRuns(before, document);
  const lines = [`adapter: ${document.adapter}`, formatTable([HEADER, ...document.results.map(rowOf)])];
  if (changes) lines.push("", `against ${flags.compare}:`, formatChanges(changes));
  lines.push("", `report: ${path}.html`, `result: ${path}.json`);
  terminal.result(changes ? { ...document, changes } : document, lines.join("\n"));
}

/** The `bench` command. */
export function benchCommand(): Command {
  return new Command("bench")
    .description("measure the named cases: time, GFLOP/s, share of the FMA peak, memory, error against the oracle")
    .option("--case <names...>", 'cases to run, "ring-*" for all of a kind (default: all)')
    .option("--list", "print the names of the cases")
    .addOption(
      new Option(
        "--ring [clock]",
        "the ring over throttled links instead: exposed communication for 2, 4 and 8 ranks, scaling; both clocks unless one is named (real time wants a quiet machine)",
      ).choices(["virtual", "real"]),
    )
    .option(
      "--against <peers>",
      "side by side with other WebGPU libraries in one browser: some of ort,ort-gqa,jax,tfjs (installed from npm on first use)",
      parsePeers,
    )
    .option(
      "--contender-seconds <s>",
      "with --against: what each may spend on a case; slow ones get fewer samples",
      number(1),
      300,
    )
    .addOption(adapterOption())
    .option("--compare <result.json>", "print what changed since that result, beyond noise")
    .option("--repeats <n>", "timed repeats of each case", integer(1, 1000), 7)
    .option("--warmups <n>", "runs before the first that counts", integer(0, 1000), 2)
    .option("--min-sample-ms <x>", "short runs are repeated within a sample up to this long", number(0), 50)
    .addOption(
      new Option("--attention <kinds...>", "kinds of attention in the attention cases")
        .choices(["vanilla", "flash", "blockwise"])
        .default(["flash"]),
    )
    .addOption(
      new Option("--design <design>", "kernel design")
        .choices(["auto", "register", "tile", "subgroup"])
        .default("auto"),
    )
    .option("--out <folder>", "where the result and the report page go", "bench/results")
    .option("--name <name>", "their file name without extension (default: date and adapter)")
    .addOption(runtimeOption())
    .addOption(jsonOption())
    .action(bench);
}
