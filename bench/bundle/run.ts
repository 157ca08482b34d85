/** What `./start` of a bench bundle runs once the box is checked: correctness, then tables, written as they come. */
import { accessSync, constants, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "../../src/cli/errors.ts";
import { createNodeDevice } from "../../src/cli/node-device.ts";
import { describeAdapter, UnsupportedDeviceError } from "../../src/index.ts";
import { documentMarkdown } from "../benchmarks/document-markdown.ts";
import { caseNames } from "../cases.ts";
import { runTune, type TuneEvent, tuneShapeNames } from "../jobs/tune.ts";
import type { BenchDocument, BenchJob } from "../result-types.ts";
import { measureInBlocks } from "./blocks.ts";
import { type ConformanceResult, runConformance } from "./conformance.ts";
import { bundleMarkdown, torchRatios } from "./markdown.ts";
import { type BundleOptions, HELP, readOptions } from "./options.ts";
import { benchCases, conformanceJob } from "./plan.ts";
import { startTorch, type Torch } from "./torch.ts";

const app = dirname(fileURLToPath(import.meta.url));
const bundle = dirname(app);

const startMs = performance.now();
const say = (line: string) =>
  console.error(`[${((performance.now() - startMs) / 1000).toFixed(0).padStart(4)} s] ${line}`);

/** Lets a message through every so many seconds: a GPU is done with hundreds of checks in that time. */
function everySeconds<T>(seconds: number, tell: (message: T) => void): (message: T) => void {
  let lastMs = Number.NEGATIVE_INFINITY;
  return (message) => {
    if (performance.now() - lastMs < 1000 * seconds) return;
    lastMs = performance.now();
    tell(message);
  };
}

/** What the maker of the bundle wrote down about it. */
function readManifest(): { ringwise: string; commit: string; webgpu: string } {
  return JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
}

/** NVIDIA's kernel driver, where there is one: Vulkan names it in numbers of its own. */
function nvidiaDriver(): string | undefined {
  const file = "/proc/driver/nvidia/version";
  return existsSync(file) ? /(\d+\.\d+(?:\.\d+)?)\s/.exec(readFileSync(file, "utf8"))?.[1] : undefined;
}

async function run(options: BundleOptions): Promise<number> {
  const unknown = options.cases?.find((name) => !caseNames().includes(name));
  if (unknown !== undefined)
    throw new UsageError(`--case ${unknown}: no such case; there are ${caseNames().join(", ")}`);
  const folder = resolve(options.out);
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw new UsageError(`--out ${folder}: expected a folder that can be written: ${(error as Error).message}`);
  }
  const device = await createNodeDevice(options.adapter);
  let lost: string | undefined;
  void device.lost.then(({ reason, message }) => {
    if (reason !== "destroyed") lost = message;
  });
  const adapter = describeAdapter(device);
  say(`adapter: ${adapter.name}; f16 ${adapter.hasF16 ? "yes" : "no"}`);

  const notes: string[] = [];
  const note = (sentence: string) => {
    notes.push(sentence);
    say(sentence);
  };
  if (adapter.isCpu && existsSync("/dev/nvidia0"))
    note(
      "This adapter runs on the processor although the machine shows an NVIDIA GPU: its Vulkan driver did not load.",
    );
  if (!adapter.hasF16) note("The adapter has no shader-f16: every figure is f32.");

  const manifest = readManifest();
  const driver = nvidiaDriver();
  const document: BenchDocument = {
    ringwise: manifest.ringwise,
    date: new Date().toISOString(),
    runtime: "node",
    host: `Node ${process.version}`,
    machine: `${cpus().length} x ${cpus()[0]?.model ?? "unknown processor"}`,
    adapter: adapter.name,
    command: ["./start", ...process.argv.slice(2)].join(" "),
    versions: {
      ...{ ringwise: `${manifest.ringwise} (${manifest.commit})`, node: process.version, webgpu: manifest.webgpu },
      ...(driver && { "nvidia driver": driver }),
    },
    results: [],
  };
  let correctness: ConformanceResult[] = [];
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
  const save = () => {
    write("correctness.json", `${JSON.stringify(correctness, null, 1)}\n`);
    write("results.json", `${JSON.stringify(document, null, 1)}\n`);
    write(
      "results.md",
      bundleMarkdown({ document, correctness, notes }, document.results.length > 0 ? documentMarkdown(document) : ""),
    );
  };

  const deadlineMs = startMs + options.minutes * 60_000;
  say("1/3 correctness");
  correctness = await runConformance(device, {
    ...conformanceJob(device, options.isQuick),
    deadlineMs: options.onlyCorrectness ? deadlineMs : startMs + options.minutes * 60_000 * 0.4,
    onProgress: everySeconds(5, (message) => say(`    ${message}`)),
  });
  const of = (...statuses: string[]) => correctness.filter(({ status }) => statuses.includes(status));
  for (const bad of of("wrong", "failed"))
    say(`    ${bad.status}: ${bad.case}, ${bad.dtype}, ${bad.implementation}: ${bad.reason}`);
  say(
    `    ${of("ok").length} right, ${of("wrong", "failed").length} wrong, ${of("unsupported").length} not for this device`,
  );
  const late = of("not run").length;
  if (late > 0)
    note(`Time was up before ${late} of ${correctness.length} checks of correctness; --minutes gives more.`);
  save();

  if (!options.onlyCorrectness && !options.isQuick && options.withTuning) {
    say("2/3 tuning: the table is measured with what it finds");
    const names = tuneShapeNames(adapter.hasF16);
    // A quarter of the time for all classes together, and no more than 3 s for one.
    const budgetMs = Math.min(3000, (0.25 * 60_000 * options.minutes) / names.length);
    const onEvent = everySeconds(5, ({ message }: TuneEvent) => say(`    ${message}`));
    try {
      const tuned = await runTune(device, { budgetMs }, onEvent);
      write("tuned.json", `${JSON.stringify(tuned, null, 1)}\n`);
      say(`    ${tuned.records.length} of ${names.length} classes of shapes measured: tuned.json`);
    } catch (error) {
      note(`Tuning failed: ${(error as Error).message}`);
    }
  }

  let torch: Torch | undefined;
  if (!options.onlyCorrectness) {
    if (options.withTorch) {
      const found = await startTorch(join(app, "torch_bench.py"), options.python);
      if (typeof found === "string") note(`torch was left out: ${found}.`);
      else {
        torch = found;
        const { version, cuda, device: where } = found;
        document.versions!.torch = `${version} on ${where}${cuda ? ` (CUDA ${cuda})` : ""}`;
        say(`torch ${document.versions!.torch} runs beside`);
      }
    } else note("torch was left out, as asked.");
    try {
      await measureAll(torch);
    } finally {
      torch?.close();
    }
  }
  save();
  const failed = document.results.filter(({ contender, status = "ok" }) => !contender && status !== "ok");
  for (const { case: name, dtype, ratio, torch: row } of torchRatios(document.results))
    if (ratio !== undefined)
      console.log(`${name} ${dtype}: torch (${row.implementation}) takes ${ratio.toFixed(2)} of Ringwise's time`);
  console.log(`results: ${join(folder, "results.md")}`);
  device.destroy();
  return of("wrong", "failed").length + failed.length > 0 || lost !== undefined ? 1 : 0;

  async function measureAll(torch: Torch | undefined) {
    const names = options.cases ?? benchCases(device, options.isQuick);
    const times = options.isQuick
      ? { warmups: 1, repeats: 4, minSampleMs: 5 }
      : { warmups: 2, repeats: 8, minSampleMs: 50 };
    const left: string[] = [];
    say(`3/3 the table: ${names.length} cases`);
    for (const [index, name] of names.entries()) {
      if (lost !== undefined || performance.now() > deadlineMs) {
        left.push(name);
        continue;
      }
      say(`    ${index + 1}/${names.length} ${name}`);
      const job: BenchJob = { cases: [name], ...times, attention: ["flash"], design: "auto" };
      try {
        document.results.push(...(await measureInBlocks(device, job, torch)));
      } catch (error) {
        const reason = (error as Error).message;
        document.results.push({ case: name, group: "attention", implementation: "flash", status: "failed", reason });
        say(`    failed: ${reason}`);
      }
      save();
    }
    if (lost !== undefined) note(`The device was lost: ${lost}`);
    if (left.length > 0)
      note(`Not begun: ${left.join(", ")}${lost === undefined ? "; --minutes gives more time" : ""}.`);
  }
}

async function main(): Promise<number> {
  try {
    const options = readOptions(process.argv.slice(2), join(bundle, "out"));
    if (options) return await run(options);
    console.log(HELP);
    return 0;
  } catch (error) {
    if (error instanceof UsageError) {
      console.error(`start: ${error.message}`);
      return 2;
    }
    if (!(error instanceof UnsupportedDeviceError)) throw error;
    console.error("start: no Vulkan driver of this box found a device that it can drive with WebGPU's needs.");
    console.error(
      "start: VK_LOADER_DEBUG=error,warn,driver ./start --quick says what the loader thinks of each driver.",
    );
    return 3;
  }
}

// Dawn's threads outlive the last device: an ordinary end would wait for them.
process.exit(await main());
