/** `ringwise bench`: named cases in headless Chrome (or in Node): a table, JSON, and a report page with plots. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { Command, Option } from "commander";
import { caseNames, SUITES, type Suite } from "../../bench/cases.ts";
import { compareRuns } from "../../bench/compare.ts";
import { runBench } from "../../bench/jobs/run.ts";
import { reportHtml } from "../../bench/report.ts";
import type { BenchAnswer, BenchDocument, BenchEvent, BenchJob } from "../../bench/result-types.ts";
import { overlapTable, RING_BENCH_NOTES, ringBenchMarkdown, runRingBench, scalingTable } from "../../bench/ring/run.ts";
import { type AttentionDesign, type AttentionKind, type Dtype, describeAdapter } from "../index.ts";
import { benchAgainst, chooseAgainstCases, type PeerName, parsePeers } from "./bench-against.ts";
import { writeReport } from "./bench-report.ts";
import { comparisonText, resultsText } from "./bench-text.ts";
import { UsageError } from "./errors.ts";
import { runInPage } from "./harness.ts";
import { createNodeDevice } from "./node-device.ts";
import { integer, number } from "./parse.ts";
import { packageVersion } from "./paths.ts";
import { commandLine, machineName } from "./provenance.ts";
import { adapterOption, chromeAdapter, jsonOption, runtimeOption } from "./shared-options.ts";
import { formatTable, openTerminal, type Terminal } from "./terminal.ts";

interface BenchFlags {
  case?: string[];
  suite?: Suite;
  dtype?: Dtype[];
  report?: boolean;
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

/** The names to run: a suite's without `--case`, besides the suite's with one; a trailing `*` stands for any ending. */
function chooseCases(asked: readonly string[] | undefined, suite: Suite | undefined): string[] {
  if (!asked) return caseNames(suite ?? "default");
  const all = caseNames();
  const chosen = asked.flatMap((name) => {
    const found = name.endsWith("*") ? all.filter((other) => other.startsWith(name.slice(0, -1))) : [name];
    if (found.length === 0 || !all.includes(found[0]!))
      throw new UsageError(`--case ${name}: no such case (--list shows them all)`);
    return found;
  });
  return [...new Set([...(suite ? caseNames(suite) : []), ...chosen])];
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

/** What a run was: the device's answer, and the host's name and version. */
interface Measured {
  answer: BenchAnswer;
  host: string;
  versions: Record<string, string>;
}

async function measure(
  flags: BenchFlags,
  job: BenchJob,
  log: (line: string) => void,
  onEvent: (event: BenchEvent, host: Omit<Measured, "answer">) => void,
): Promise<Measured> {
  const ringwise = packageVersion();
  if (flags.runtime === "node") {
    const dawn = createRequire(import.meta.url)("webgpu/package.json") as { version: string };
    const host = {
      host: `Node ${process.version}`,
      versions: { Node: process.version, webgpu: dawn.version, ringwise },
    };
    const answer = await runBench(await createNodeDevice(flags.adapter), job, (event) => onEvent(event, host));
    return { answer, ...host };
  }
  let host = { host: "Chrome", versions: { ringwise } as Record<string, string> };
  const answer = await runInPage<BenchAnswer, BenchEvent>("bench", job, {
    ...{ adapter: chromeAdapter(flags.adapter), log },
    onEvent: (event) => onEvent(event, host),
    async onPage(page) {
      const chrome = await page.browser().version();
      host = { host: chrome, versions: { Chrome: chrome, ringwise } };
    },
  });
  return { answer, ...host };
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
    machine: machineName(),
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
    if (!flags.list) {
      const before = flags.compare === undefined ? undefined : readDocument(flags.compare);
      return benchAgainst({ ...flags, against, before }, terminal);
    }
    const names = chooseAgainstCases(flags.case ?? ["*"]);
    return terminal.result(names, names.join("\n"));
  }
  if (flags.report) return writeReport(flags.out, process.cwd(), terminal);
  if (flags.list) {
    const names = caseNames(flags.suite ?? "all");
    return terminal.result(names, names.join("\n"));
  }
  const before = flags.compare === undefined ? undefined : readDocument(flags.compare);
  const cases = chooseCases(flags.case, flags.suite);
  const { warmups, repeats, minSampleMs, attention, design, dtype: dtypes } = flags;
  const job: BenchJob = { cases, warmups, repeats, minSampleMs, attention, design, dtypes };
  const head = {
    ringwise: packageVersion(),
    date: new Date().toISOString(),
    runtime: flags.runtime,
    machine: machineName(),
    command: commandLine(),
  };
  const folder = resolve(flags.out);
  mkdirSync(folder, { recursive: true });
  const save = ({ answer, ...host }: Measured) => {
    const document: BenchDocument = { ...head, ...host, ...answer };
    const path = join(folder, flags.name ?? fileName(document));
    writeFileSync(`${path}.json`, `${JSON.stringify(document, null, 1)}\n`);
    return { document, path };
  };
  const measured = await measure(flags, job, terminal.log, (event, host) => {
    if (event.type === "progress") terminal.progress(event.message);
    else save({ answer: event.answer, ...host });
  });
  const { document, path } = save(measured);
  writeFileSync(`${path}.html`, reportHtml(document));
  const comparison = before && compareRuns(before, document);
  const lines = [resultsText(document)];
  if (comparison) lines.push("", `against ${flags.compare}:`, comparisonText(comparison));
  lines.push("", `report: ${path}.html`, `result: ${path}.json`);
  terminal.result(comparison ? { ...document, comparison } : document, lines.join("\n"));
  const isWrong = document.results.some(({ status = "ok" }) => status !== "ok");
  if (isWrong || comparison?.changes.some(({ isLoss }) => isLoss)) process.exitCode = 1;
}

/** The `bench` command. */
export function benchCommand(): Command {
  return new Command("bench")
    .description("measure the named cases: time, GFLOP/s, share of the FMA peak, memory, error against the oracle")
    .option("--case <names...>", 'cases to run, "ring-*" for all of a kind (default: those of the suite)')
    .addOption(
      new Option(
        "--suite <suite>",
        'cases by purpose: "default", bearable on two cores; "report", all that BENCHMARKS.md tells; "all"',
      ).choices([...SUITES]),
    )
    .addOption(
      new Option(
        "--dtype <types...>",
        "element types of the attention, matmul and MLP cases (default: all that the device has)",
      ).choices(["f32", "f16"]),
    )
    .option("--list", "print the names of the cases (of --suite)")
    .option("--report", "measure nothing: write BENCHMARKS.md, plots and kernel headers from the results in --out")
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
    .option(
      "--compare <result.json>",
      "print what changed since that result, beyond noise; exit code 1 where more than 10% is lost",
    )
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
