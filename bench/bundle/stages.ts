/** The stages of a run, in their order: correctness, tuning, the table. */
import { availableParallelism } from "node:os";
import { runTune, type TuneEvent, tuneShapeNames } from "../jobs/tune.ts";
import type { BenchJob } from "../result-types.ts";
import { measureInBlocks } from "./blocks.ts";
import { runConformance } from "./conformance.ts";
import { benchCases, conformanceJob } from "./plan.ts";
import { everySeconds, type Session } from "./session.ts";
import { startTorch, type Torch } from "./torch.ts";

/** Shares of the time that correctness and tuning may take before the table's turn comes. */
const CORRECTNESS_SHARE = 0.4;
const TUNING_SHARE = 0.25;
/** Milliseconds for one class of shapes at most. */
const TUNING_BUDGET_MS = 3000;

const minutesMs = (session: Session) => 60_000 * session.options.minutes;

/** Checks every kernel on every case. Returns how many were wrong or failed. */
export async function checkCorrectness(session: Session): Promise<number> {
  const { device, options, say } = session;
  say("1/3 correctness");
  const leftMs = minutesMs(session) * (options.onlyCorrectness ? 1 : CORRECTNESS_SHARE) - session.elapsedMs();
  session.correctness = await runConformance(device, {
    ...conformanceJob(device, options.isQuick),
    deadlineMs: performance.now() + leftMs,
    // Half of the processors: the others are the driver's own.
    concurrency: Math.min(8, Math.floor(availableParallelism() / 2)),
    onProgress: everySeconds(5, (message) => say(`    ${message}`)),
  });
  const count = (...of: string[]) => session.correctness.filter(({ status }) => of.includes(status)).length;
  for (const { status, implementation, reason, ...about } of session.correctness)
    if (status === "wrong" || status === "failed")
      say(`    ${status}: ${about.case}, ${about.dtype}, ${implementation}: ${reason}`);
  const bad = count("wrong", "failed");
  say(`    ${count("ok")} right, ${bad} wrong, ${count("unsupported")} not for this device`);
  const late = count("not run");
  if (late > 0)
    session.note(
      `Time was up before ${late} of ${session.correctness.length} checks of correctness; --minutes gives more.`,
    );
  session.save();
  return bad;
}

/** Tunes; what it finds becomes the device's choice, so that the table is measured with it. */
export async function tune({ device, adapter, options, say, note, write }: Session): Promise<void> {
  // There one kernel compiles longer than all may take here, and what is given up goes on compiling beside the table.
  if (adapter.isCpu) return note("Not tuned: on a CPU adapter that takes an hour (ringwise tune does it).");
  say("2/3 tuning: the table is measured with what it finds");
  const names = tuneShapeNames(adapter.hasF16);
  const totalMs = TUNING_SHARE * 60_000 * options.minutes;
  const budgetMs = Math.min(TUNING_BUDGET_MS, totalMs / names.length);
  const onEvent = everySeconds(5, ({ message }: TuneEvent) => say(`    ${message}`));
  try {
    const tuned = await runTune(device, { budgetMs, totalMs }, onEvent);
    // Candidates that were given up may still run.
    await device.queue.onSubmittedWorkDone();
    write("tuned.json", `${JSON.stringify(tuned, null, 1)}\n`);
    say(`    ${tuned.records.length} of ${names.length} classes of shapes measured: tuned.json`);
  } catch (error) {
    note(`Tuning failed: ${(error as Error).message}`);
  }
}

/** Torch where it is and is wanted; a sentence in the report where not. */
async function findTorch({ options, document, say, note }: Session, script: string): Promise<Torch | undefined> {
  if (!options.withTorch) {
    note("torch was left out, as asked.");
    return undefined;
  }
  const found = await startTorch(script, options.python);
  if (typeof found === "string") {
    note(`torch was left out: ${found}.`);
    return undefined;
  }
  const { version, cuda, device, hasTf32 } = found;
  document.versions!.torch = `${version} on ${device}${cuda ? ` (CUDA ${cuda})` : ""}`;
  if (hasTf32)
    note("torch multiplies f32 in TensorFloat-32 here, although that was turned off: its f32 rows are not f32.");
  say(`torch ${document.versions!.torch} runs beside`);
  return found;
}

/** Measures the table, torch in turn with it. Returns how many rows of ours are wrong or failed. */
export async function measureTable(session: Session, torchScript: string): Promise<number> {
  const { device, options, document, say, note } = session;
  const torch = await findTorch(session, torchScript);
  const names = options.cases ?? benchCases(device, options.isQuick);
  const times = options.isQuick
    ? { warmups: 1, repeats: 4, minSampleMs: 5 }
    : { warmups: 2, repeats: 8, minSampleMs: 50 };
  const left: string[] = [];
  say(`3/3 the table: ${names.length} cases`);
  for (const [index, name] of names.entries()) {
    if (session.lost() !== undefined || session.elapsedMs() > minutesMs(session)) {
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
    session.save();
  }
  torch?.close();
  const lost = session.lost();
  if (lost !== undefined) note(`The device was lost: ${lost}`);
  if (left.length > 0) note(`Not begun: ${left.join(", ")}${lost === undefined ? "; --minutes gives more time" : ""}.`);
  session.save();
  return document.results.filter(({ contender, status = "ok" }) => !contender && status !== "ok").length;
}
