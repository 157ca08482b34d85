/**
 * `npm run soak [-- --minutes 10]`: generates in one page for ten minutes and watches its memory: GPU bytes in the ledger,
 * the JavaScript heap after a forced collection, and (on Linux) the resident memory of Chrome's GPU process. Writes
 * bench/results/soak.json and ends with 1 where memory grows or an answer is wrong.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Page } from "puppeteer-core";
import type { SoakJob, SoakSample } from "../bench/jobs/soak.ts";
import { quantile } from "../bench/statistics.ts";
import { runInPage } from "../src/cli/harness.ts";
import { builtFolder } from "../src/cli/paths.ts";
import { formatBytes } from "../src/cli/terminal.ts";

/** What the host sees of the page at one moment. */
interface MemorySample {
  elapsedMs: number;
  heapBytes: number;
  gpuProcessBytes?: number;
}

/** Growth beyond this share (and this many bytes) from the second quarter to the last counts as a leak. */
const LEAK_SHARE = 0.05;
const LEAK_BYTES = 2 * 2 ** 20;

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    length: { type: "string", default: "512" },
    "world-size": { type: "string", default: "4" },
  },
});
const job: SoakJob = {
  minutes: Number(values.minutes),
  length: Number(values.length),
  ring: { worldSize: Number(values["world-size"]) },
};
if (!(job.minutes > 0) || !(job.length >= 256) || !(job.ring.worldSize! >= 1)) {
  console.error("usage: npm run soak -- [--minutes N] [--length TOKENS] [--world-size N]");
  process.exit(2);
}

/** Resident bytes of Chrome's GPU process. */
async function gpuProcessBytes(page: Page): Promise<number | undefined> {
  if (process.platform !== "linux") return undefined;
  const session = await page.browser().target().createCDPSession();
  try {
    const { processInfo } = await session.send("SystemInfo.getProcessInfo");
    const gpu = processInfo.find(({ type }) => type === "GPU");
    const status = gpu && readFileSync(`/proc/${gpu.id}/status`, "utf8");
    const kibibytes = status && /^VmRSS:\s+(\d+) kB/m.exec(status)?.[1];
    return kibibytes ? Number(kibibytes) * 1024 : undefined;
  } finally {
    await session.detach();
  }
}

const startMs = performance.now();
const runs: SoakSample[] = [];
const memory: MemorySample[] = [];
let timer: NodeJS.Timeout | undefined;

/** Collects the page's garbage and notes what is left, as often as gives about sixty samples. */
async function watch(page: Page): Promise<void> {
  const session = await page.createCDPSession();
  timer = setInterval(
    async () => {
      try {
        await session.send("HeapProfiler.collectGarbage");
        const { JSHeapUsedSize } = await page.metrics();
        const sample = { elapsedMs: performance.now() - startMs, heapBytes: JSHeapUsedSize ?? 0 };
        memory.push({ ...sample, gpuProcessBytes: await gpuProcessBytes(page) });
      } catch {
        clearInterval(timer); // the page is closing
      }
    },
    Math.max(1000, job.minutes * 1000),
  );
}

await runInPage<number, SoakSample>(
  "soak",
  { source: "/model/", job },
  {
    mounts: [{ path: "/model/", folder: builtFolder("demo/models/default") }],
    onPage: (page) => void watch(page),
    onEvent: (sample) => {
      runs.push(sample);
      if (sample.run % 10 === 1)
        console.error(
          `${(sample.elapsedMs / 1000).toFixed(0)} s: ${sample.run} runs, ${formatBytes(sample.gpuBytes)} on the GPU, heap ${formatBytes(memory.at(-1)?.heapBytes ?? 0)}`,
        );
    },
    log: (line) => console.error(line),
  },
);
clearInterval(timer);

/** From the second quarter (everything is warm) to the last: growth of the medians. */
function growth(
  name: string,
  series: readonly number[],
): { name: string; before: number; after: number; leaks: boolean } {
  const quarter = Math.floor(series.length / 4);
  if (quarter === 0) throw new Error(`soak: ${series.length} samples of ${name} are too few; let it run longer`);
  const before = quantile(series.slice(quarter, 2 * quarter), 0.5);
  const after = quantile(series.slice(-quarter), 0.5);
  return { name, before, after, leaks: after - before > Math.max(LEAK_BYTES, before * LEAK_SHARE) };
}

const checks = [
  growth(
    "gpuBytes",
    runs.map(({ gpuBytes }) => gpuBytes),
  ),
  growth(
    "peakGpuBytes",
    runs.map(({ peakGpuBytes }) => peakGpuBytes),
  ),
  growth(
    "heapBytes",
    memory.map(({ heapBytes }) => heapBytes),
  ),
];
const resident = memory.map(({ gpuProcessBytes }) => gpuProcessBytes).filter((bytes) => bytes !== undefined);
if (resident.length > 3) checks.push(growth("gpuProcessBytes", resident));
const wrong = runs.filter(({ isRight }) => !isRight).length;
const document = {
  date: new Date().toISOString(),
  job,
  runs: runs.length,
  wrongAnswers: wrong,
  decodeTokensPerSecond: {
    firstHalf: quantile(
      runs.slice(0, Math.ceil(runs.length / 2)).map((run) => run.decodeTokensPerSecond),
      0.5,
    ),
    lastQuarter: quantile(
      runs.slice(-Math.ceil(runs.length / 4)).map((run) => run.decodeTokensPerSecond),
      0.5,
    ),
  },
  checks,
  memory,
};
const folder = fileURLToPath(new URL("../bench/results/", import.meta.url));
mkdirSync(folder, { recursive: true });
writeFileSync(join(folder, "soak.json"), `${JSON.stringify(document, null, 1)}\n`);
for (const { name, before, after, leaks } of checks)
  console.log(`${name}: ${formatBytes(before)} -> ${formatBytes(after)}${leaks ? " GROWS" : ""}`);
console.log(`${runs.length} runs in ${job.minutes} minutes, ${wrong} wrong answers`);
process.exitCode = wrong > 0 || checks.some(({ leaks }) => leaks) ? 1 : 0;
