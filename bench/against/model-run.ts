/**
 * One model among all contenders: each loads it with the same weights, its logits are held against the oracle, and then the
 * reading of a prompt and the decoding behind it are sampled in turn (A B A B ...). Whoever fails is out of the case.
 */
import type { ModelConfig } from "../onnx/model-numbers.ts";
import type { BenchResult } from "../result-types.ts";
import { quantile, summarize } from "../statistics.ts";
import { largestDifference } from "../tolerance.ts";
import { benchPrompt, decodeBytes, type ModelAgainstCase, type ModelJob, prefillFlops } from "./model-cases.ts";
import { type AgainstOptions, type ContenderHandle, complaintOf, type Entrant, failureOf, type Sample } from "./run.ts";
import { addRatios, judge, runsPerSample, samplesWithin, TOLERANCE } from "./verdict.ts";

/** What is measured of a model. */
const PHASES = ["prefill", "decode"] as const;
type Phase = (typeof PHASES)[number];

/** What the oracle says: the logits after the first tokens of the prompt. */
export interface ModelOracle {
  config: ModelConfig;
  logits: ArrayLike<number>;
}

/** Pages of ours that measure what the adapter can do, in turn with the contenders. */
export interface PeakProbes {
  /** Kind "fma-peak". */
  fma: ContenderHandle;
  /** Kind "read-peak". */
  read: ContenderHandle;
}

/** A contender within one case. */
interface Turn extends Entrant {
  results: Record<Phase, BenchResult>;
  samples: Record<Phase, Sample[]>;
  /** Tokens of one decode sample, and how many samples. */
  sampleTokens: number;
  wanted: number;
  isOut: boolean;
  /** After the whole prompt, where the oracle has read a part of it only. */
  logits?: number[];
}

/** Share of its time that a contender may spend in one decode sample. */
const DECODE_SHARE = 1 / 6;
/** A warm-up that took more than this share is the only one. */
const WARM_UP_SHARE = 1 / 16;

function createTurn(entrant: Entrant, { name, promptTokens }: ModelAgainstCase): Turn {
  const result = (phase: Phase): BenchResult => ({
    ...{ case: `${name}-${phase}`, group: "model", implementation: "-", contender: entrant.name, status: "ok" },
    ...{ dtype: "f32", seqLen: promptTokens, errorRows: 1 },
  });
  return {
    ...entrant,
    results: { prefill: result("prefill"), decode: result("decode") },
    samples: { prefill: [], decode: [] },
    ...{ sampleTokens: 1, wanted: 0, isOut: false },
  };
}

function end(turn: Turn, status: "wrong" | "failed", reason: string): void {
  turn.isOut = true;
  for (const phase of PHASES) Object.assign(turn.results[phase], { status, reason });
}

/** Runs an attempt on a contender; a failure is written into its rows. */
async function attempt(turn: Turn, { say }: AgainstOptions, run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    const gpu = await turn.handle.gpu().catch(() => undefined);
    end(turn, "failed", `${failureOf(error)}${gpu ? complaintOf(gpu) : ""}`);
    say(`${turn.name}: ${turn.results.prefill.reason}`);
    await turn.handle.close();
  }
}

async function sample(turn: Turn, phase: Phase, job: ModelJob, count: number): Promise<Sample> {
  await turn.handle.prepare(`model-${phase}`, job);
  return turn.handle.sample(count);
}

/** Holds the logits against the oracle's. */
async function check(turn: Turn, oracle: ModelOracle, shape: ModelAgainstCase): Promise<void> {
  const { handle, results } = turn;
  const prompt = benchPrompt(shape.promptTokens);
  const got = (await handle.answer({ logitsOf: prompt.slice(0, shape.oracleTokens) })) as number[];
  const verdict = judge(got, oracle.logits);
  const gpu = await handle.gpu();
  for (const phase of PHASES) {
    results[phase].peakBytes = gpu.peakBytes;
    results[phase].maxError = Math.max(results[phase].maxError ?? 0, verdict.maxError);
  }
  if (!verdict.isRight) end(turn, "wrong", `${verdict.reason}${complaintOf(gpu)}`);
}

/** The check after the samples; then the whole prompt, too, where the oracle has read a part of it only. */
async function checkAgain(turn: Turn, oracle: ModelOracle, shape: ModelAgainstCase): Promise<void> {
  await check(turn, oracle, shape);
  if (turn.isOut || shape.oracleTokens === shape.promptTokens) return;
  turn.logits = (await turn.handle.answer({ logitsOf: benchPrompt(shape.promptTokens) })) as number[];
}

/** Opens, loads, warms up and checks one contender. */
async function start(turn: Turn, oracle: ModelOracle, shape: ModelAgainstCase, job: ModelJob, o: AgainstOptions) {
  const now = o.now ?? (() => performance.now());
  await turn.handle.open();
  const { implementation } = await turn.handle.prepare("model-prefill", job);
  for (const phase of PHASES) turn.results[phase].implementation = implementation;
  const startMs = now();
  /** Once to compile, and again for the time, where that leaves time to measure. */
  const warmUp = async (phase: Phase): Promise<number> => {
    const { timeMs } = await sample(turn, phase, job, 1);
    return timeMs > o.contenderMs * WARM_UP_SHARE ? timeMs : (await sample(turn, phase, job, 1)).timeMs;
  };
  const prefillMs = await warmUp("prefill");
  const tokenMs = await warmUp("decode");
  // Not before it has run by itself: what our questions make it allocate is not counted, and it may keep that for its own use.
  await check(turn, oracle, shape);
  const most = Math.floor((o.contenderMs * DECODE_SHARE) / tokenMs);
  turn.sampleTokens = Math.max(1, Math.min(job.newTokens, most));
  turn.wanted = samplesWithin(o.contenderMs - (now() - startMs), prefillMs + tokenMs * turn.sampleTokens, o.repeats);
}

/** A probe that is asked in every round, so that peaks and contenders meet the same machine; work per millisecond. */
async function openProbe(probe: ContenderHandle, kind: string, o: AgainstOptions): Promise<() => Promise<number>> {
  let work = 0;
  let count = 1;
  const begin = async () => {
    await probe.open();
    await probe.prepare(kind, {});
    await probe.sample(1);
    const { flopCount, byteLength = flopCount } = (await probe.answer({})) as {
      flopCount: number;
      byteLength?: number;
    };
    work = byteLength;
    count = runsPerSample((await probe.sample(1)).timeMs, o.minSampleMs);
  };
  await begin();
  return async () => {
    if (!(await probe.isAlive())) await begin();
    return work / (await probe.sample(count)).timeMs;
  };
}

/** The figures that follow from the samples. */
function finish(turn: Turn, shape: ModelAgainstCase, config: ModelConfig, peaks: { fma: number; read: number }): void {
  if (turn.isOut || turn.samples.decode.length === 0) return;
  for (const phase of PHASES) {
    const result = turn.results[phase];
    const samples = turn.samples[phase];
    result.timeMs = summarize(samples.map(({ timeMs }) => timeMs));
    const seconds = samples.map(({ cpuSeconds }) => cpuSeconds).filter((value) => value !== undefined);
    if (seconds.length > 0) result.cpuSeconds = quantile(seconds, 0.5);
  }
  const { prefill, decode } = turn.results;
  prefill.gflops = prefillFlops(config, shape.promptTokens) / prefill.timeMs!.median / 1e6;
  prefill.fmaPeakGflops = peaks.fma;
  prefill.peakShare = prefill.gflops / peaks.fma;
  prefill.figures = { tokensPerSecond: (1000 * shape.promptTokens) / prefill.timeMs!.median };
  // The middle of a sample stands for it.
  const context = shape.promptTokens + Math.round(turn.sampleTokens / 2);
  decode.readGBps = decodeBytes(config, context) / decode.timeMs!.median / 1e6;
  decode.readPeakGBps = peaks.read;
  decode.bandwidthShare = decode.readGBps / peaks.read;
  decode.figures = { tokensPerSecond: 1000 / decode.timeMs!.median, tokensPerSample: turn.sampleTokens };
}

/** What the oracle has not read: peers' logits after the whole prompt, beside ours. */
function compareWholePrompt(turns: readonly Turn[], { oracleTokens, promptTokens }: ModelAgainstCase): void {
  const ours = turns.find(({ name }) => name === "ringwise")?.logits;
  if (!ours) return;
  const largest = ours.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (const turn of turns) {
    if (!turn.logits || turn.logits === ours) continue;
    const difference = largestDifference(turn.logits, ours);
    for (const phase of PHASES)
      turn.results[phase].figures = { ...turn.results[phase].figures, logitDifference: difference };
    if (difference <= TOLERANCE * largest) continue;
    end(
      turn,
      "wrong",
      `After ${oracleTokens} tokens its logits are the oracle's; after all ${promptTokens} they are ${difference.toExponential(1)} off Ringwise's.`,
    );
  }
}

/** Runs one case with every entrant; two rows for each, prefill (one prompt) and decode (one token). */
export async function runAgainstModelCase(
  entrants: readonly Entrant[],
  probes: PeakProbes,
  shape: ModelAgainstCase,
  oracle: ModelOracle,
  options: AgainstOptions,
): Promise<BenchResult[]> {
  const { say } = options;
  const { model, promptTokens, newTokens } = shape;
  const job: ModelJob = { model, promptTokens, newTokens };
  const turns = entrants.map((entrant) => createTurn(entrant, shape));
  try {
    for (const turn of turns) {
      say(`${shape.name}: ${turn.name} loads and warms up`);
      await attempt(turn, options, () => start(turn, oracle, shape, job, options));
    }
    const measure = {
      fma: await openProbe(probes.fma, "fma-peak", options),
      read: await openProbe(probes.read, "read-peak", options),
    };
    const seen: { fma: number[]; read: number[] } = { fma: [], read: [] };
    const rounds = Math.max(0, ...turns.filter(({ isOut }) => !isOut).map(({ wanted }) => wanted));
    for (let round = 0; round < rounds; round++) {
      for (const kind of ["fma", "read"] as const) seen[kind].push((await measure[kind]()) / 1e6);
      for (const turn of turns) {
        if (turn.isOut || round >= turn.wanted) continue;
        say(`${shape.name}: ${turn.name}, sample ${round + 1} of ${turn.wanted}`);
        await attempt(turn, options, async () => {
          if (!(await turn.handle.isAlive())) {
            // Someone else took this contender's device along: a new page, warm, and no blame.
            await turn.handle.open();
            await sample(turn, "prefill", job, 1);
          }
          turn.samples.prefill.push(await sample(turn, "prefill", job, 1));
          turn.samples.decode.push(await sample(turn, "decode", job, turn.sampleTokens));
        });
      }
    }
    for (const turn of turns) if (!turn.isOut) await attempt(turn, options, () => checkAgain(turn, oracle, shape));
    if (rounds > 0) {
      const peaks = { fma: quantile(seen.fma, 0.5), read: quantile(seen.read, 0.5) };
      for (const turn of turns) finish(turn, shape, oracle.config, peaks);
    }
    compareWholePrompt(turns, shape);
  } finally {
    for (const handle of [...turns.map(({ handle }) => handle), probes.fma, probes.read]) await handle.close();
  }
  const results = turns.flatMap((turn) => PHASES.map((phase) => turn.results[phase]));
  for (const phase of PHASES) addRatios(results, `${shape.name}-${phase}`);
  return results;
}
