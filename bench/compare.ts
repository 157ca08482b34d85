/** What changed between two bench runs beyond what the runs themselves scatter, and whether anything was lost. */
import type { BenchDocument, BenchResult } from "./result-types.ts";

/** A case that both runs have. */
export interface Change {
  case: string;
  implementation: string;
  dtype: "f32" | "f16";
  /** What was compared: the share of the FMA peak where both have it (it cancels a machine's mood), else the time. */
  measure: "share of FMA peak" | "time" | "extra bytes" | "status";
  before: number;
  after: number;
  /** (after - before) / before */
  relative: number;
  verdict: "faster" | "slower" | "less memory" | "more memory" | "same" | "no longer right" | "right again";
  /** True where it is worse by more than {@link MOST_LOSS}, beyond noise: a run that has one ends with exit code 1. */
  isLoss: boolean;
}

/** All that a comparison has to say. */
export interface Comparison {
  changes: Change[];
  /** What makes it less than a comparison of like with like, as sentences. */
  notes: string[];
  /** Cases that only one of the runs has. */
  onlyBefore: string[];
  onlyAfter: string[];
}

/** A difference smaller than this is not called one, however quiet both runs were. */
const FLOOR = 0.03;
/** A loss of more than this counts: speed as a share of what it was, bytes as a share of what they were. */
export const MOST_LOSS = 0.1;
/** Bytes beyond the tensors that may be added before it counts, whatever share they are: uniforms of one more kernel. */
const LEAST_BYTES = 65_536;

const dtypeOf = ({ dtype = "f32" }: BenchResult) => dtype;
const isRight = ({ status = "ok" }: BenchResult) => status === "ok";

const key = (result: BenchResult) =>
  [result.case, result.implementation, dtypeOf(result), result.contender ?? "ringwise"].join("\n");

/** What every change of a case says of it; peers' rows carry their name, and a loss of theirs is none of ours. */
function head(after: BenchResult) {
  const { contender = "ringwise", implementation } = after;
  const isOurs = contender === "ringwise";
  const name = isOurs ? implementation : `${contender}: ${implementation}`;
  return { isOurs, case: after.case, implementation: name, dtype: dtypeOf(after) };
}

function changeOfSpeed(before: BenchResult, after: BenchResult, isSameMachine: boolean): Change | undefined {
  if (!before.timeMs || !after.timeMs || !isRight(before) || !isRight(after)) return undefined;
  const hasShares = before.peakShare !== undefined && after.peakShare !== undefined;
  // Milliseconds of different machines tell of the machines.
  if (!hasShares && !isSameMachine) return undefined;
  const from = hasShares ? before.peakShare! : before.timeMs.median;
  const to = hasShares ? after.peakShare! : after.timeMs.median;
  // A share scatters with its peak, too; independent errors add up by their squares.
  const spreads = [before, after].flatMap(({ timeMs, fmaPeakSpread = 0 }) =>
    hasShares ? [timeMs!.spread, fmaPeakSpread] : [timeMs!.spread],
  );
  const noise = Math.max(FLOOR, Math.hypot(...spreads));
  const relative = (to - from) / from;
  const isFaster = hasShares ? relative > 0 : relative < 0;
  // Speed lost: the share itself, or the inverse of the time.
  const loss = hasShares ? -relative : 1 - from / to;
  const isChange = Math.abs(relative) > noise;
  const { isOurs, ...named } = head(after);
  return {
    ...named,
    measure: hasShares ? "share of FMA peak" : "time",
    ...{ before: from, after: to, relative },
    verdict: isChange ? (isFaster ? "faster" : "slower") : "same",
    isLoss: isOurs && isChange && loss > MOST_LOSS,
  };
}

function changeOfMemory(before: BenchResult, after: BenchResult): Change | undefined {
  if (before.extraBytes === undefined || after.extraBytes === undefined) return undefined;
  if (before.extraBytes === after.extraBytes) return undefined;
  const grown = after.extraBytes - before.extraBytes;
  const relative = grown / Math.max(1, before.extraBytes);
  const { isOurs, ...named } = head(after);
  // Bytes are counted, not timed: any difference is one.
  return {
    ...named,
    measure: "extra bytes",
    ...{ before: before.extraBytes, after: after.extraBytes, relative },
    verdict: grown < 0 ? "less memory" : "more memory",
    isLoss: isOurs && relative > MOST_LOSS && grown > LEAST_BYTES,
  };
}

function changeOfStatus(before: BenchResult, after: BenchResult): Change | undefined {
  if (isRight(before) === isRight(after)) return undefined;
  const { isOurs, ...named } = head(after);
  return {
    ...{ ...named, measure: "status", before: Number(isRight(before)), after: Number(isRight(after)) },
    relative: isRight(after) ? 1 : -1,
    verdict: isRight(after) ? "right again" : "no longer right",
    isLoss: isOurs && !isRight(after),
  };
}

function notesOf(before: BenchDocument, after: BenchDocument): string[] {
  const notes: string[] = [];
  const differ = (what: string, from: string, to: string) => notes.push(`${what}: "${from}" then, "${to}" now.`);
  if (before.adapter !== after.adapter) differ("Another adapter", before.adapter, after.adapter);
  if (before.runtime !== after.runtime) differ("Another runtime", before.runtime, after.runtime);
  if (before.machine !== after.machine) differ("Another machine", before.machine, after.machine);
  const versions = Object.entries(after.versions ?? {});
  for (const [name, version] of versions) {
    const then = before.versions?.[name];
    if (then !== undefined && then !== version) differ(`Another ${name}`, then, version);
  }
  if (before.adapter !== after.adapter || before.runtime !== after.runtime)
    notes.push("What is faster or slower here tells of the adapters, not of a change: nothing counts as a loss.");
  else if (before.machine !== after.machine)
    notes.push("Only shares of the FMA peak, bytes and correctness are compared: times tell of the machines.");
  return notes;
}

/** Every case that both documents hold, with its changes; a loss counts only between runs on the same adapter and runtime. */
export function compareRuns(before: BenchDocument, after: BenchDocument): Comparison {
  const old = new Map(before.results.map((result) => [key(result), result]));
  const isSameMachine = before.machine === after.machine;
  const isSameAdapter = before.adapter === after.adapter && before.runtime === after.runtime;
  const changes = after.results.flatMap((result) => {
    const previous = old.get(key(result));
    if (!previous) return [];
    return [
      changeOfStatus(previous, result),
      changeOfSpeed(previous, result, isSameMachine && isSameAdapter),
      changeOfMemory(previous, result),
    ].filter((change) => change !== undefined);
  });
  const names = ({ results }: BenchDocument) => [...new Set(results.map((result) => result.case))];
  const [then, now] = [names(before), names(after)];
  return {
    changes: isSameAdapter ? changes : changes.map((change) => ({ ...change, isLoss: false })),
    notes: notesOf(before, after),
    onlyBefore: then.filter((name) => !now.includes(name)),
    onlyAfter: now.filter((name) => !then.includes(name)),
  };
}
