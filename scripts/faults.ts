/**
 * `npm run test:faults [-- --faults 208 --seed 1 --resume]`: rings of 3 and of 5 Chromes generate while tabs close, pages and
 * browsers crash, processes stop, devices are lost, links are cut, peers are slow and frames are spoilt. Each time the answer
 * must equal the published one, and nothing may be left behind. Writes bench/results/faults.json after every fault; ends
 * with 1 where one failed. `--shard-tokens 1000` instead asks the model that Ringwise ships for a needle in a text of so many
 * tokens a rank, and times the recovery of such shards. Linux only: it stops and kills the processes that it started.
 *
 *     [--link browser|tab|worker] [--ranks 3,5] [--kinds a,b] [--only NUMBER] [--minutes LIMIT] [--out FILE]
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { quantile } from "../bench/statistics.ts";
import { builtFolder } from "../src/cli/paths.ts";
import { openRing, type PeerRing, type RingLink } from "../src/cli/peer-ring.ts";
import { needleText } from "../src/index.ts";
import { FAULT_KINDS, type Fault, planFaults } from "../test/faults/plan.ts";
import { hasProcessTable } from "../test/faults/processes.ts";
import { type FaultOutcome, type FaultTask, refill, runFault, Watch } from "../test/faults/run-fault.ts";
import { goldenTask, storiesFolder } from "../test/faults/tasks.ts";

const { values } = parseArgs({
  options: {
    faults: { type: "string", default: "208" },
    seed: { type: "string", default: "1" },
    link: { type: "string", default: "browser" },
    ranks: { type: "string", default: "3,5" },
    kinds: { type: "string", default: FAULT_KINDS.join() },
    only: { type: "string" },
    minutes: { type: "string", default: "1440" },
    "shard-tokens": { type: "string" },
    resume: { type: "boolean", default: false },
    out: { type: "string" },
    verbose: { type: "boolean", default: false },
  },
});
const root = fileURLToPath(new URL("..", import.meta.url));
const shardTokens = values["shard-tokens"] === undefined ? undefined : Number(values["shard-tokens"]);
const file = values.out ?? join(root, "bench", "results", shardTokens ? "faults-recovery.json" : "faults.json");
const seed = Number(values.seed);
const endMs = performance.now() + Number(values.minutes) * 60_000;

if (!hasProcessTable) {
  console.error("faults: needs Linux's /proc, to stop and end the processes that it starts");
  process.exit(2);
}

interface Report {
  date: string;
  seed: number;
  link: string;
  planned: number;
  outcomes: FaultOutcome[];
}

const kinds = new Set(values.kinds.split(","));
const ranks = new Set(values.ranks.split(",").map(Number));
const plan = planFaults(Number(values.faults), seed)
  .filter((fault) => kinds.has(fault.kind) && ranks.has(fault.ranks))
  .filter((fault) => values.only === undefined || fault.number === Number(values.only));
const before: Partial<Report> = values.resume && existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
const report: Report = {
  ...{ date: new Date().toISOString(), seed, link: values.link, planned: plan.length },
  outcomes: before.seed === seed ? (before.outcomes ?? []) : [],
};
const isDone = new Set(report.outcomes.map(({ number }) => number));

const watch = new Watch();
let ring: PeerRing | undefined;
let ringRanks = 0;
let needleTask: FaultTask | undefined;

/** The needle's text at this many ranks; what a run without a fault answers is what must come out. */
async function taskOf(fault: Fault, ring: PeerRing): Promise<FaultTask> {
  if (!shardTokens) return goldenTask(fault.phase);
  if (needleTask) return needleTask;
  const { text, question, answer } = needleText({ length: shardTokens * fault.ranks, depth: 50, seed });
  const prompt = text + question;
  const { tokenIds, text: found } = await ring.generate({ prompt, maxNewTokens: answer.length + 8 });
  if (!found.includes(answer.trim())) throw new Error(`faults: expected the answer ${answer}, got ${found}`);
  return (needleTask = { prompt, expected: tokenIds });
}

/** A ring of so many; the one before, where it has that size and is well. */
async function ringOf(ranks: number): Promise<PeerRing> {
  if (ring && ringRanks !== ranks) await closeRing();
  if (!ring) {
    needleTask = undefined;
    ring = await openRing({
      ...{ peers: ranks, link: values.link as RingLink, isTest: true, onEvent: watch.onEvent },
      model: { folder: shardTokens ? builtFolder("demo/models/default") : storiesFolder },
      log: (line) => values.verbose && console.error(`  ${line}`),
    });
    ringRanks = ranks;
  }
  await refill(ring, ranks);
  return ring;
}

async function closeRing(): Promise<void> {
  await ring?.close();
  ring = undefined;
}

mkdirSync(dirname(file), { recursive: true });
try {
  // Rings of one size one after the other: opening one takes as long as several faults.
  for (const fault of [...plan].sort((a, b) => a.ranks - b.ranks || a.number - b.number)) {
    if (isDone.has(fault.number) || performance.now() > endMs) continue;
    let outcome: FaultOutcome;
    try {
      const ring = await ringOf(fault.ranks);
      outcome = await runFault(ring, watch, fault, await taskOf(fault, ring));
    } catch (error) {
      const failures = [`the ring could not be made whole: ${(error as Error).stack}`];
      outcome = { ...fault, failures, story: [], recoveries: [], seconds: 0 };
    }
    // What happened is of interest where it went wrong.
    report.outcomes.push(outcome.failures.length > 0 ? outcome : { ...outcome, story: [] });
    writeFileSync(file, `${JSON.stringify(report, null, 1)}\n`);
    const { number, kind, victim, phase, failures, seconds, recoveries } = outcome;
    const recovered = recoveries.map(({ tokens, milliseconds }) => `${tokens} tokens in ${milliseconds.toFixed(0)} ms`);
    console.log(
      `${number}: ${kind} at rank ${victim} of ${fault.ranks} in ${phase}: ${failures.length ? "FAILED" : "ok"}, ${seconds.toFixed(1)} s${recovered.length ? `, recovered ${recovered.join(", ")}` : ""}`,
    );
    if (failures.length > 0) {
      console.log(failures.map((line) => `  ${line}`).join("\n"));
      console.log(outcome.story.map((line) => `    ${line}`).join("\n"));
      await closeRing();
    }
  }
} finally {
  await closeRing();
}

const { outcomes } = report;
const failed = outcomes.filter(({ failures }) => failures.length > 0);
const times = outcomes.flatMap(({ recoveries }) => recoveries.map(({ milliseconds }) => milliseconds));
if (times.length > 0)
  console.log(
    `${times.length} recoveries: median ${quantile(times, 0.5).toFixed(0)} ms, 95% ${quantile(times, 0.95).toFixed(0)} ms, most ${Math.max(...times).toFixed(0)} ms`,
  );
console.log(`${outcomes.length} of ${plan.length} faults done, ${failed.length} failed`);
process.exit(failed.length > 0 || outcomes.length === 0 ? 1 : 0);
