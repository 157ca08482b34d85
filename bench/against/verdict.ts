/** What a contender's output and times are worth: right or wrong, how often it is run, and by how much who is ahead. */
import type { BenchResult } from "../result-types.ts";

/**
 * The largest error that still counts as right, as a share of the largest expected value. Plain f32 attention stays below
 * 1e-5; zeros, or a row attended wrongly, are above 0.1.
 */
export const TOLERANCE = 1e-3;

/** Whether an output is the oracle's. */
export interface Verdict {
  isRight: boolean;
  /** Largest absolute difference. */
  maxError: number;
  /** A sentence where it is wrong. */
  reason?: string;
}

/** Holds an output against the oracle's. NaN is wrong, and so is a missing element. */
export function judge(got: ArrayLike<number>, expected: ArrayLike<number>, tolerance = TOLERANCE): Verdict {
  let maxError = 0;
  let largest = 0;
  let isZero = true;
  for (let index = 0; index < expected.length; index++) {
    const value = got[index] ?? Number.NaN;
    if (value !== 0) isZero = false;
    // Math.max keeps NaN.
    maxError = Math.max(maxError, Math.abs(value - expected[index]!));
    largest = Math.max(largest, Math.abs(expected[index]!));
  }
  if (got.length === expected.length && maxError <= tolerance * largest) return { isRight: true, maxError };
  const share = `${maxError.toExponential(1)} away from the oracle, whose largest value is ${largest.toExponential(1)}`;
  if (Number.isNaN(maxError)) return { isRight: false, maxError, reason: "The output holds NaN, without an error." };
  if (isZero) return { isRight: false, maxError, reason: "The output is all zeros, without an error." };
  return { isRight: false, maxError, reason: `The output is ${share}.` };
}

/** How often a sample repeats a run within itself: short runs, up to `minSampleMs` together. */
export const runsPerSample = (onceMs: number, minSampleMs: number): number =>
  Math.max(1, Math.min(1000, Math.ceil(minSampleMs / Math.max(onceMs, 0.01))));

/** How many samples fit into what is left of a contender's time; one at least. */
export const samplesWithin = (leftMs: number, sampleMs: number, repeats: number): number =>
  Math.max(1, Math.min(repeats, Math.floor(leftMs / sampleMs)));

const isOurs = ({ contender = "ringwise" }: BenchResult) => contender === "ringwise";

/** The fastest peer of a case whose output is right. */
export function fastestPeer(results: readonly BenchResult[], name: string): BenchResult | undefined {
  return results
    .filter((result) => result.case === name && !isOurs(result) && (result.status ?? "ok") === "ok" && result.timeMs)
    .sort((a, b) => a.timeMs!.median - b.timeMs!.median)[0];
}

/** Adds to our row of a case how many times faster it is than the fastest correct peer, by medians and by minima. */
export function addRatios(results: readonly BenchResult[], name: string): void {
  const peer = fastestPeer(results, name);
  const ours = results.find((result) => result.case === name && isOurs(result));
  if (!peer || !ours?.timeMs || (ours.status ?? "ok") !== "ok") return;
  ours.figures = {
    ...ours.figures,
    timesFaster: peer.timeMs!.median / ours.timeMs.median,
    timesFasterAtMinimum: peer.timeMs!.min / ours.timeMs.min,
  };
}
