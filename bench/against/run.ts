/**
 * One case among all contenders: each is opened, prepared and warmed up on its own, then samples are taken in turn
 * (A B C A B C ...), each output is held against the oracle before and after. Whoever fails is out of the case, not the run.
 * The pages themselves are the host's: here they are handles, so that this runs against stand-ins, too.
 */
import { type AttentionCase, attentionFlops } from "../../test/cases.ts";
import { attentionInputs, expectedRows, spreadRows } from "../attention-oracle.ts";
import type { BenchResult, Contender as ContenderName } from "../result-types.ts";
import { quantile, summarize } from "../statistics.ts";
import { tensorBytes } from "./cases.ts";
import type { AttentionJob, Opened, PageGpu, PreparedFacts } from "./contender.ts";
import { addRatios, judge, runsPerSample, samplesWithin } from "./verdict.ts";

/** One sample: milliseconds of a run, and processor seconds of the GPU process for it where they are known. */
export interface Sample {
  timeMs: number;
  cpuSeconds?: number;
}

/** A contender's page, from outside. Every method rejects where the page, its device or its library failed. */
export interface ContenderHandle {
  /** A fresh page; one that was open is closed first. */
  open(): Promise<Opened>;
  /** False after a crash or a lost device, whoever caused it. */
  isAlive(): Promise<boolean>;
  prepare(kind: string, job: unknown): Promise<PreparedFacts>;
  sample(count: number): Promise<Sample>;
  answer(question: unknown): Promise<unknown>;
  gpu(): Promise<PageGpu>;
  close(): Promise<void>;
}

/** Who takes part, under the name that results carry. */
export interface Entrant {
  name: ContenderName;
  handle: ContenderHandle;
  /** Which of its operators it is to use; absent: what suits the case. */
  operator?: string;
}

/** How a case is run. */
export interface AgainstOptions {
  warmups: number;
  repeats: number;
  minSampleMs: number;
  /** What each contender may spend on warm-up and samples of one case: slow ones get fewer samples. */
  contenderMs: number;
  say: (message: string) => void;
  now?: () => number;
}

/** A contender within one case. */
interface Turn extends Entrant {
  result: BenchResult;
  samples: Sample[];
  /** Runs within a sample, and how many samples. */
  count: number;
  wanted: number;
  isOut: boolean;
}

const sentence = (text: string) => {
  const line = text.replace(/\s+/g, " ").trim().slice(0, 400);
  return /[.!?]$/.test(line) ? line : `${line}.`;
};

/** Why a contender failed, in words that say whose fault it is. */
export function failureOf(error: unknown): string {
  const { name, message } = error as Error;
  if (name === "CannotAskError") return sentence(`Cannot be asked: ${message}`);
  if (name === "DeviceLostError") return sentence(`The device was lost: ${message}`);
  if (name === "TimeLimitError") return sentence(`Too slow to be measured: ${message}`);
  return sentence(name === "Error" ? message : `${name}: ${message}`);
}

/** What the device said while the library said nothing. */
export function complaintOf({ errors, refusedBytes }: PageGpu): string {
  const refused =
    refusedBytes > 0 ? ` It asked for a buffer of ${refusedBytes} bytes, more than the device allows.` : "";
  return errors.length > 0 ? `${refused} The device said: ${sentence(errors[0]!)}` : refused;
}

const jobOf = ({ operator }: Entrant, shape: AttentionCase): AttentionJob => ({ shape, operator });

/** Opens, prepares, warms up and checks one contender. */
async function start(turn: Turn, shape: AttentionCase, expected: ArrayLike<number>, rows: number[], o: AgainstOptions) {
  const { handle, result } = turn;
  const now = o.now ?? (() => performance.now());
  await handle.open();
  // Which implementation, and which kernels.
  Object.assign(result, await handle.prepare("attention", jobOf(turn, shape)));
  const startMs = now();
  let onceMs = 0;
  for (let warmup = 0; warmup < Math.max(1, o.warmups); warmup++) {
    // The first warm-up shows whether it is right; more of them, only where they leave time to measure.
    if (warmup > 0 && now() - startMs + onceMs > o.contenderMs / 4) break;
    onceMs = (await handle.sample(1)).timeMs;
  }
  await check(turn, expected, rows);
  turn.count = runsPerSample(onceMs, o.minSampleMs);
  turn.wanted = samplesWithin(o.contenderMs - (now() - startMs), onceMs * turn.count, o.repeats);
}

/** Holds the last output against the oracle; a wrong one ends the contender's case. */
async function check(turn: Turn, expected: ArrayLike<number>, rows: number[]): Promise<void> {
  const { handle, result } = turn;
  const gpu = await handle.gpu();
  result.peakBytes = gpu.peakBytes;
  const got = (await handle.answer({ rows })) as number[];
  const { isRight, maxError, reason } = judge(got, expected);
  result.maxError = Math.max(result.maxError ?? 0, maxError);
  if (isRight) return;
  turn.isOut = true;
  result.status = "wrong";
  result.reason = `${reason}${complaintOf(gpu)}`;
}

/** Runs an attempt on a contender; a failure is written into its row. */
async function attempt(turn: Turn, run: () => Promise<void>, o: AgainstOptions): Promise<void> {
  try {
    await run();
  } catch (error) {
    const gpu = await turn.handle.gpu().catch(() => undefined);
    turn.isOut = true;
    turn.result.status = "failed";
    turn.result.reason = `${failureOf(error)}${gpu ? complaintOf(gpu) : ""}`;
    o.say(`${turn.name}: ${turn.result.reason}`);
    // What it still has running on the GPU must not slow down the others.
    await turn.handle.close();
  }
}

/** Someone else took this contender's device along: a new page, prepared and warm, and no blame. */
async function revive(turn: Turn, shape: AttentionCase): Promise<void> {
  await turn.handle.open();
  await turn.handle.prepare("attention", jobOf(turn, shape));
  await turn.handle.sample(1);
}

function finish(turn: Turn, shape: AttentionCase, peaks: readonly number[]): void {
  const { result, samples } = turn;
  if (samples.length === 0 || result.status === "wrong" || result.status === "failed") return;
  result.timeMs = summarize(samples.map(({ timeMs }) => timeMs));
  const seconds = samples.map(({ cpuSeconds }) => cpuSeconds).filter((value) => value !== undefined);
  if (seconds.length > 0) result.cpuSeconds = quantile(seconds, 0.5);
  result.gflops = attentionFlops(shape) / result.timeMs.median / 1e6;
  if (peaks.length === 0) return;
  const { median, spread } = summarize(peaks);
  result.fmaPeakGflops = median;
  result.fmaPeakSpread = spread;
  result.peakShare = result.gflops / median;
}

/** The probe takes part in every round, so that peak and contenders meet the same machine. */
async function probePeak(probe: ContenderHandle, o: AgainstOptions): Promise<() => Promise<number>> {
  await probe.open();
  await probe.prepare("fma-peak", {});
  await probe.sample(1);
  const { flopCount } = (await probe.answer({})) as { flopCount: number };
  const count = runsPerSample((await probe.sample(1)).timeMs, o.minSampleMs);
  return async () => flopCount / (await probe.sample(count)).timeMs / 1e6;
}

/** Runs one case with every entrant; a row for each, in their order. The probe measures the FMA peak in turn with them. */
export async function runAgainstCase(
  entrants: readonly Entrant[],
  probe: ContenderHandle,
  shape: AttentionCase,
  options: AgainstOptions,
): Promise<BenchResult[]> {
  const { say } = options;
  const rows = spreadRows(shape.seqLen);
  say(`${shape.name}: the oracle`);
  const expected = expectedRows(shape, attentionInputs(shape), rows);
  const turns: Turn[] = entrants.map((entrant) => ({
    ...{ ...entrant, samples: [], count: 1, wanted: 0, isOut: false },
    result: {
      ...{
        case: shape.name,
        group: "attention",
        implementation: "-",
        contender: entrant.name,
        status: "ok",
        dtype: "f32",
      },
      ...{ seqLen: shape.seqLen, isCausal: shape.isCausal, tensorBytes: tensorBytes(shape) },
      errorRows: rows.length * shape.batch,
    },
  }));
  try {
    for (const turn of turns) {
      say(`${shape.name}: ${turn.name} loads and warms up`);
      await attempt(turn, () => start(turn, shape, expected, rows, options), options);
    }
    let measurePeak = await probePeak(probe, options);
    const peakOfRound = async () => {
      // Someone else may have taken the probe's device along.
      if (!(await probe.isAlive())) measurePeak = await probePeak(probe, options);
      return measurePeak();
    };
    const peaks: number[] = [];
    const rounds = Math.max(0, ...turns.filter(({ isOut }) => !isOut).map(({ wanted }) => wanted));
    for (let round = 0; round < rounds; round++) {
      peaks.push(await peakOfRound());
      for (const turn of turns) {
        if (turn.isOut || round >= turn.wanted) continue;
        say(`${shape.name}: ${turn.name}, sample ${round + 1} of ${turn.wanted}`);
        await attempt(
          turn,
          async () => {
            if (!(await turn.handle.isAlive())) await revive(turn, shape);
            turn.samples.push(await turn.handle.sample(turn.count));
          },
          options,
        );
      }
    }
    for (const turn of turns) {
      if (!turn.isOut)
        await attempt(
          turn,
          async () => {
            if (!(await turn.handle.isAlive())) await revive(turn, shape);
            await check(turn, expected, rows);
          },
          options,
        );
      finish(turn, shape, peaks);
    }
  } finally {
    for (const { handle } of turns) await handle.close();
  }
  const results = turns.map(({ result }) => result);
  addRatios(results, shape.name);
  return results;
}
