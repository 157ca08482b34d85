/** What changed between two bench runs beyond what the runs themselves scatter. */
import type { BenchDocument, BenchResult } from "./result-types.ts";

/** A case that both runs have. */
export interface Change {
  case: string;
  implementation: string;
  /** What was compared: the share of the FMA peak where both have it (it cancels a machine's mood), else the time. */
  measure: "share of FMA peak" | "time" | "extra bytes";
  before: number;
  after: number;
  /** (after - before) / before */
  relative: number;
  verdict: "faster" | "slower" | "less memory" | "more memory" | "same";
}

/** A difference smaller than this is not called one, however quiet both runs were. */
const FLOOR = 0.03;

const key = (result: BenchResult) => `${result.case}\n${result.implementation}`;

function changeOfSpeed(before: BenchResult, after: BenchResult): Change | undefined {
  if (!before.timeMs || !after.timeMs) return undefined;
  const hasShares = before.peakShare !== undefined && after.peakShare !== undefined;
  const from = hasShares ? before.peakShare! : before.timeMs.median;
  const to = hasShares ? after.peakShare! : after.timeMs.median;
  const relative = (to - from) / from;
  const noise = Math.max(FLOOR, before.timeMs.spread + after.timeMs.spread);
  const isFaster = hasShares ? relative > 0 : relative < 0;
  return {
    case: after.case,
    implementation: after.implementation,
    measure: hasShares ? "share of FMA peak" : "time",
    before: from,
    after: to,
    relative,
    verdict: Math.abs(relative) <= noise ? "same" : isFaster ? "faster" : "slower",
  };
}

function changeOfMemory(before: BenchResult, after: BenchResult): Change | undefined {
  if (before.extraBytes === undefined || after.extraBytes === undefined) return undefined;
  if (before.extraBytes === after.extraBytes) return undefined;
  // Bytes are counted, not timed: any difference is one.
  return {
    case: after.case,
    implementation: after.implementation,
    measure: "extra bytes",
    before: before.extraBytes,
    after: after.extraBytes,
    relative: (after.extraBytes - before.extraBytes) / Math.max(1, before.extraBytes),
    verdict: after.extraBytes < before.extraBytes ? "less memory" : "more memory",
  };
}

/** Every case that both documents hold, with its change; cases of one alone are left out. */
export function compareRuns(before: BenchDocument, after: BenchDocument): Change[] {
  const old = new Map(before.results.map((result) => [key(result), result]));
  return after.results.flatMap((result) => {
    const previous = old.get(key(result));
    if (!previous) return [];
    return [changeOfSpeed(previous, result), changeOfMemory(previous, result)].filter((change) => change !== undefined);
  });
}
