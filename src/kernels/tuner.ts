/**
 * Measuring candidates of one class of shapes: compile, check, time, within a budget. What is right is decided before what
 * is fast:
 *
 * 1. A small call of uneven sizes: every element of a candidate's result is held against a float64 computation on the CPU.
 * 2. The call that is timed: some rows against the CPU, and all elements against the candidates before it. Where two differ,
 *    the row in which they are furthest apart is computed on the CPU, and whoever is wrong there is out (it may be both).
 *
 * 3. The winner's result is held against both once more after the timing.
 *
 * So no vote is needed, and no number of wrong candidates outvotes a right one. Times are the shortest of several rounds in
 * turn (A B C A B C). The safe choice stays unless another is at least 3% faster: less is noise.
 */
import { lossSignal } from "../gpu/device-loss.ts";
import { AttentionEngine, attentionSource } from "./attention-engine.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import type { AttentionCandidate, AttentionWork } from "./candidates.ts";
import { kernelOf } from "./tiles.ts";
import type { TunedCandidate } from "./tuned-record.ts";
import { createTrialCall, type TrialCall, type TrialResult, type TrialSize } from "./tuner-call.ts";

/** What is to be measured. */
export interface Measuring {
  device: GPUDevice;
  /** Without what calls bring along (masks, segments, lengths, sinks). */
  resolved: ResolvedAttention;
  work: AttentionWork;
  isCpu: boolean;
  /** In the order in which they are tried; the safe choice first. */
  candidates: readonly AttentionCandidate[];
  budgetMs: number;
  signal?: AbortSignal;
  onProgress?: (done: number, message: string) => void;
}

/** What came of it. */
export interface Measured {
  /** Undefined: nothing was found right (see the candidates' statuses). */
  winner?: AttentionCandidate;
  measuredOn: string;
  candidates: TunedCandidate[];
}

/** A candidate that is right so far. */
interface Trial {
  candidate: AttentionCandidate;
  engine: AttentionEngine;
  entry: TunedCandidate;
}

/** Of the budget, what compiling and checking may take; the rest is for the rounds. */
const COMPILE_SHARE = 0.7;
/** Rounds of timing at most. */
const ROUNDS = 7;
/** So much slower than the best in the small call, a candidate is not run in the large one; in the large one, not timed again. */
const HOPELESS_SMALL = 4;
const HOPELESS = 2;
/** What another candidate must gain on the safe choice. */
const GAIN = 0.97;
/** Short runs are repeated within a sample up to this long. */
const MIN_SAMPLE_MS = 10;
/** Bytes of one tensor of the timed call, in f32. */
const MAX_TENSOR_BYTES = 16 * 2 ** 20;
/** One run of the timed call takes about so long at most on a CPU adapter. */
const MAX_RUN_MS = 120;

/** What `promise` brings, or undefined once `milliseconds` are over. Rejects as soon as the signal is aborted. */
export function within<T>(promise: Promise<T>, milliseconds: number, signal: AbortSignal): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    // setTimeout takes 31 bits.
    const timer = milliseconds < 2 ** 31 ? setTimeout(() => resolve(undefined), Math.max(0, milliseconds)) : undefined;
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    promise.then(resolve, reject).finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    });
  });
}

/** How long to wait for a run, and what calls it off. */
interface Patience {
  /** Milliseconds; a run cannot be stopped, but it need not be waited for. */
  limitMs: number;
  signal: AbortSignal;
}

/**
 * Milliseconds of one run of several in one submission; undefined where it was not over in time.
 * @throws {Error} with what WebGPU says of an invalid dispatch
 */
async function time(
  device: GPUDevice,
  call: TrialCall,
  engine: AttentionEngine,
  count: number,
  { limitMs, signal }: Patience,
): Promise<number | undefined> {
  device.pushErrorScope("internal");
  device.pushErrorScope("validation");
  let startMs = 0;
  let scopes: Promise<(GPUError | null)[]>;
  try {
    const encoder = device.createCommandEncoder({ label: "tuner" });
    call.clear(encoder);
    for (let i = 0; i < count; i++) call.encode(engine, encoder);
    startMs = performance.now();
    device.queue.submit([encoder.finish()]);
  } finally {
    scopes = Promise.all([device.popErrorScope(), device.popErrorScope()]);
    scopes.catch(() => {}); // a lost device: the signal says it better
  }
  const isDone = device.queue.onSubmittedWorkDone().then(() => true);
  if (!(await within(isDone, limitMs, signal))) return undefined;
  const timeMs = (performance.now() - startMs) / count;
  for (const error of await scopes) if (error) throw new Error(error.message);
  return timeMs;
}

/** Sizes of the small call: several tiles of rows and keys, neither of them full. */
function smallSize({ resolved, work }: Measuring): TrialSize {
  const { group, kvHeads } = resolved;
  const seqLen = work === "few-rows" ? 1 : Math.max(19, Math.ceil(141 / group));
  return { seqLen, kvSeqLen: Math.max(173, seqLen + 2), kvHeads: Math.min(2, kvHeads) };
}

/**
 * What compiling a candidate takes, in units of its own: compilers that optimize take more than twice as long for a text of twice
 * the length. What was begun cannot be called off, and whatever the device does next would wait for it.
 */
function compileWork({ resolved, work }: Measuring, candidate: AttentionCandidate): number {
  const target = work === "many-rows" ? "output" : "state";
  const text = attentionSource(resolved, target, kernelOf(candidate, "measured", ""));
  return text.replace(/\/\/.*$/gm, "").length ** 1.5;
}

/** Milliseconds that one run of the timed call should take at most on a CPU adapter. */
const runMsOf = ({ isCpu, budgetMs, candidates }: Measuring): number =>
  isCpu ? Math.min(MAX_RUN_MS, budgetMs / (8 * candidates.length)) : MAX_RUN_MS;

/** Sizes of the timed call: as long as the class is, as a run of so many milliseconds over so many pairs lets it be. */
function largeSize(measuring: Measuring, before: TrialSize, beforeMs: number): TrialSize {
  const { resolved, work, isCpu } = measuring;
  const { kvHeads, heads, headDim, valueDim, window, expectedSeqLen } = resolved;
  const isShort = expectedSeqLen < 1024;
  // A CPU adapter is busy with a few heads; a GPU wants them all.
  const usedHeads = isCpu ? Math.min(kvHeads, 4) : kvHeads;
  const pairs = ((before.seqLen * before.kvSeqLen * before.kvHeads) / usedHeads) * (runMsOf(measuring) / beforeMs);
  const rowBytes = Math.max(headDim, valueDim) * heads * 4;
  const most = Math.min(MAX_TENSOR_BYTES, measuring.device.limits.maxStorageBufferBindingSize) / rowBytes;
  const powerOf2 = (wanted: number, low: number, high: number) =>
    2 ** Math.floor(Math.log2(Math.min(Math.max(wanted, low), high, most)));
  if (work === "few-rows")
    return { seqLen: 1, kvSeqLen: powerOf2(pairs, isShort ? 512 : 1024, isShort ? 512 : 16_384), kvHeads: usedHeads };
  // Of a call as long as its window nothing would be hidden.
  const low = Math.max(isCpu || isShort ? 256 : 2048, 2 ** Math.ceil(Math.log2(2 * window || 1)));
  const seqLen = powerOf2(Math.sqrt(pairs), Math.min(low, 4096), isShort ? 512 : 4096);
  return { seqLen, kvSeqLen: seqLen, kvHeads: usedHeads };
}

/**
 * Measures candidates. All GPU memory that it takes is given back, however it ends. When the budget is over, nothing more is
 * begun and nothing waited for: a compile or a run that is under way ends by itself.
 * @throws signal.reason when aborted
 * @throws {GpuMemoryError} where there is no room for the calls
 * @throws {DeviceLostError}
 */
export async function measureCandidates(measuring: Measuring): Promise<Measured> {
  const { device, resolved, work, candidates, budgetMs } = measuring;
  const loss = lossSignal(device);
  const signal = measuring.signal ? AbortSignal.any([measuring.signal, loss]) : loss;
  signal.throwIfAborted();
  const startMs = performance.now();
  const leftMs = (share = 1) => startMs + share * budgetMs - performance.now();
  const entries: TunedCandidate[] = candidates.map(({ id }) => ({
    ...{ id, status: "not measured", reason: "the budget was spent before" },
  }));
  let small: TrialCall | undefined;
  let large: TrialCall | undefined;
  const engines = new Set<AttentionEngine>();
  let trials: Trial[] = [];
  /** The result of the timed call that every trial's result agrees with. */
  let accepted: TrialResult | undefined;
  let bestSmallMs = Number.POSITIVE_INFINITY;
  const best = () => Math.min(...trials.map(({ entry }) => entry.timeMs ?? Number.POSITIVE_INFINITY));

  const setOut = (entry: TunedCandidate, status: TunedCandidate["status"], reason: string) =>
    Object.assign(entry, { status, reason });

  /** Milliseconds of compiling per unit of {@link compileWork}, at the slowest so far. */
  let msPerWork = 0;

  /** Compiles within what is left; undefined where that was not enough. */
  const compile = async (candidate: AttentionCandidate): Promise<AttentionEngine | undefined> => {
    const trial = { work, choice: kernelOf(candidate, "measured", "being measured") };
    let isLate = false;
    const engine = AttentionEngine.create(device, resolved, { scratchTokens: 0, hasOneShot: true, trial }).then(
      (made) => {
        if (isLate) made.destroy();
        else engines.add(made);
        return made;
      },
    );
    try {
      const made = await within(engine, trialMs(), signal);
      isLate = made === undefined;
      return made;
    } catch (error) {
      isLate = true;
      throw error;
    }
  };

  /** The timed call, made anew as large as a run of so long over so many pairs allows. */
  const enlarge = async (before: TrialSize, beforeMs: number): Promise<TrialCall> => {
    large?.destroy();
    large = undefined;
    large = await createTrialCall(device, resolved, work, largeSize(measuring, before, beforeMs));
    return large;
  };

  /** What is left for compiling and checking. The first candidate has the whole budget: without it there is no choice. */
  const trialMs = () => leftMs(trials.length > 0 ? COMPILE_SHARE : 1);
  const run = (call: TrialCall, engine: AttentionEngine) =>
    time(device, call, engine, 1, { limitMs: trialMs(), signal });

  /** Compiles, checks and times once. Leaves the candidate's entry with how far it came; false where time was over. */
  const tryOut = async (candidate: AttentionCandidate, entry: TunedCandidate, small: TrialCall): Promise<boolean> => {
    const work = compileWork(measuring, candidate);
    const compileStartMs = performance.now();
    if (msPerWork * work > trialMs()) {
      const seconds = ((msPerWork * work) / 1000).toFixed(1);
      setOut(entry, "not measured", `to compile it would take about ${seconds} s, more than is left of the budget`);
      return true;
    }
    const engine = await compile(candidate);
    if (!engine) return false;
    // Some drivers compile when a kernel first runs.
    if ((await run(small, engine)) === undefined) return false;
    entry.compileMs = performance.now() - compileStartMs;
    msPerWork = Math.max(msPerWork, entry.compileMs / work);
    const out = (status: "slow" | "wrong", reason: string) => {
      setOut(entry, status, reason);
      return true;
    };
    const smallFault = small.fault(await small.result(), small.rows());
    if (smallFault) return out("wrong", smallFault);
    let smallMs = Number.POSITIVE_INFINITY;
    // A short run may meet a pause of the machine: one slow run condemns nobody.
    for (let turn = 0; turn < 3 && smallMs > Math.min(HOPELESS_SMALL * bestSmallMs, Number.MAX_VALUE); turn++) {
      const runMs = await run(small, engine);
      if (runMs === undefined) return false;
      smallMs = Math.min(smallMs, runMs);
    }
    if (smallMs > HOPELESS_SMALL * bestSmallMs)
      return out("slow", `${(smallMs / bestSmallMs).toFixed(1)} times the best of a small call`);
    bestSmallMs = Math.min(bestSmallMs, smallMs);
    let call = large ?? (await enlarge(small.size, smallMs));
    let timeMs = await run(call, engine);
    // What a short run takes is mostly not its work: the first candidate finds the length in steps.
    while (timeMs && !accepted && largeSize(measuring, call.size, timeMs).kvSeqLen > call.size.kvSeqLen) {
      call = await enlarge(call.size, timeMs);
      timeMs = await run(call, engine);
    }
    if (timeMs === undefined) return false;
    const result = await call.result();
    const fault = call.fault(result, call.someRows(16));
    if (fault) return out("wrong", fault);
    const apart = accepted && call.disagreement(accepted, result);
    if (apart) {
      const ownFault = call.fault(result, [apart]);
      const acceptedFault = call.fault(accepted!, [apart]);
      if (acceptedFault) {
        for (const trial of trials) setOut(trial.entry, "wrong", acceptedFault);
        trials = [];
        accepted = undefined;
      }
      if (ownFault) return out("wrong", ownFault);
    }
    accepted ??= result;
    if (timeMs > HOPELESS * best()) timeMs = Math.min(timeMs, (await run(call, engine)) ?? timeMs);
    entry.timeMs = timeMs;
    if (timeMs > HOPELESS * best()) return out("slow", `${(timeMs / best()).toFixed(1)} times the best`);
    entry.status = "ok";
    entry.reason = undefined;
    trials.push({ candidate, engine, entry });
    return true;
  };

  /** The fastest, or the safe choice where it is as fast; checked once more, for a race may lose later than in its first run. */
  const bestOf = async (left: readonly Trial[]): Promise<AttentionCandidate | undefined> => {
    if (left.length === 0) return undefined;
    const safe = left.find(({ candidate }) => candidate === candidates[0]);
    const fastest = left.reduce((a, b) => (a.entry.timeMs! <= b.entry.timeMs! ? a : b));
    const chosen = safe && fastest.entry.timeMs! > GAIN * safe.entry.timeMs! ? safe : fastest;
    const limitMs = Math.max(leftMs(), 100 + 2 * chosen.entry.timeMs!);
    // Behind a run that was not waited for: it was right in its first run, and that is all that can be had.
    if ((await time(device, large!, chosen.engine, 1, { limitMs, signal })) === undefined) return chosen.candidate;
    const result = await large!.result();
    const apart = large!.disagreement(accepted!, result);
    const fault = large!.fault(result, [...large!.someRows(16), ...(apart ? [apart] : [])]);
    if (!fault) return chosen.candidate;
    setOut(chosen.entry, "wrong", `not in its first run: ${fault}`);
    return bestOf(left.filter((trial) => trial !== chosen));
  };

  try {
    small = await createTrialCall(device, resolved, work, smallSize(measuring));
    for (const [index, candidate] of candidates.entries()) {
      if (trialMs() <= 0) break;
      const entry = entries[index]!;
      measuring.onProgress?.(index, `${candidate.id}: compiling and checking`);
      const isThrough = await tryOut(candidate, entry, small).catch((error: unknown) => {
        signal.throwIfAborted();
        setOut(entry, "failed", error instanceof Error ? error.message.split("\n")[0]! : String(error));
        return true;
      });
      if (!isThrough)
        setOut(entry, "not measured", "it was compiling or running still when its part of the budget was over");
    }
    for (let round = 0; large && trials.length > 1 && round < ROUNDS; round++) {
      measuring.onProgress?.(candidates.length, `timing ${trials.length} candidates, round ${round + 1} of ${ROUNDS}`);
      for (const { engine, entry } of round % 2 === 0 ? trials : [...trials].reverse()) {
        // What a run takes is known by now: one that does not fit any more is not begun.
        const count = Math.min(200, Math.ceil(MIN_SAMPLE_MS / Math.max(entry.timeMs!, 0.01)));
        if (leftMs() < count * entry.timeMs!) continue;
        const runMs = await time(device, large, engine, count, { limitMs: leftMs(), signal });
        entry.timeMs = Math.min(entry.timeMs!, runMs ?? entry.timeMs!);
      }
    }
    const winner = await bestOf(trials);
    const size = large?.size;
    return {
      winner,
      measuredOn: size
        ? `${size.seqLen} x ${size.kvSeqLen}, ${size.kvHeads * resolved.group} heads of ${resolved.headDim}`
        : "nothing",
      candidates: entries,
    };
  } finally {
    for (const engine of engines) engine.destroy();
    small?.destroy();
    large?.destroy();
  }
}
