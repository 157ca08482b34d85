/** What Ringwise set out to reach, as data, and whether the recorded results reach it. */
import type { BenchResult } from "../result-types.ts";
import { type Duel, duelsOf, isRight, type Section } from "./documents.ts";
import { figure, percent, times } from "./format.ts";

/** What became of a target in one case. */
export interface Outcome {
  case: string;
  isReached: boolean;
  /** The figure that decides, as text. */
  figure: string;
}

/** One aim. */
export interface Target {
  /** What is to be reached, as a sentence without an end. */
  text: string;
  /** Where it is to be reached. */
  isFor(section: Section): boolean;
  /** Cases that belong to it. */
  cases: readonly string[];
  /** One per case (and element type) that was measured. */
  outcomes(section: Section): Outcome[];
}

/** The outcomes of a target, with those of its cases that were not measured as missed; none at all: nothing was measured. */
export function outcomesOf({ cases, outcomes }: Target, section: Section): Outcome[] {
  const measured = outcomes(section);
  if (measured.length === 0) return [];
  const isMissing = (name: string) => !measured.some((outcome) => outcome.case.split(",")[0] === name);
  const missing = cases.filter(isMissing);
  return [...measured, ...missing.map((name) => ({ case: name, isReached: false, figure: "not measured" }))];
}

const PREFILL = ["1024", "2048", "4096"].flatMap((tokens) => [`prefill-${tokens}`, `prefill-${tokens}-causal`]);
const NON_CAUSAL = ["prefill-1024", "prefill-2048", "prefill-4096"];
const DECODE = ["decode-4096", "decode-16384", "decode-32768"];
/** Cases for which the issue wants figures, because no peer, or not every one, can be asked for them. */
const SHOWN = ["gqa-32-8-dim-128", "head-dim-80", "head-dim-96", "head-dim-256", "softcap-1024-causal"];
const SHOWN_LONG = ["window-256-of-4096", "prefill-16384-causal"];

const isSwiftShaderInChrome = ({ adapter, runtime }: Section) => /swiftshader/i.test(adapter) && runtime === "chrome";
const isLavapipe = ({ adapter }: Section) => /llvmpipe|lavapipe/i.test(adapter);
const isOnCpu = (section: Section) => isSwiftShaderInChrome(section) || isLavapipe(section);
const isGpu = ({ isCpu }: Section) => !isCpu;

const nameOf = ({ case: name, dtype = "f32" }: Pick<BenchResult, "case" | "dtype">) =>
  dtype === "f16" ? `${name}, f16` : name;

/** Our row of a case as the adapter's own choice ran it. */
const isChosen = ({ implementation }: BenchResult) => !implementation.includes(",");
const ownRows = ({ own }: Section, names: readonly string[]) =>
  names.flatMap((name) => own.filter((row) => row.case === name && row.timeMs && isChosen(row)));

/** A share that must be at least so large. */
const shareOutcomes = (
  rows: readonly BenchResult[],
  least: number,
  shareOf: (row: BenchResult) => number | undefined,
) =>
  rows.flatMap((row) => {
    const share = shareOf(row);
    return share === undefined
      ? []
      : [{ case: nameOf(row), isReached: isRight(row) && share >= least, figure: percent(share) }];
  });

/** Time of one case over that of another, of the same dtype; must be at most so large. */
const ratioOutcomes = (section: Section, over: string, under: string, most: number): Outcome[] =>
  ownRows(section, [over]).flatMap((row) => {
    const whole = ownRows(section, [under]).find((other) => (other.dtype ?? "f32") === (row.dtype ?? "f32"));
    if (!whole) return [];
    const ratio = row.timeMs!.median / whole.timeMs!.median;
    const isReached = isRight(row) && isRight(whole) && ratio <= most;
    return [{ case: `${nameOf(row)} over ${under}`, isReached, figure: figure(ratio) }];
  });

const duels = (section: Section, names: readonly string[]): Duel[] =>
  names.flatMap((name) => duelsOf(section.against).filter((duel) => duel.case === name));

const fasterOutcomes = (section: Section, names: readonly string[], least: number, isMinimum: boolean): Outcome[] =>
  duels(section, names).map((duel) => {
    if (!duel.peer) return { case: nameOf(duel), isReached: isRight(duel.ours!), figure: "no peer is right" };
    const ratio = isMinimum ? duel.timesFasterAtMinimum : duel.timesFaster;
    return { case: nameOf(duel), isReached: (ratio ?? 0) >= least, figure: ratio ? times(ratio) : "wrong or failed" };
  });

function memoryOutcomes(section: Section): Outcome[] {
  const names = [...PREFILL, ...DECODE];
  const rows =
    section.against.length > 0 ? duelsOf(section.against) : ownRows(section, names).map((ours) => ({ ours }));
  return (rows as Partial<Duel>[]).flatMap(({ ours, peers = [] }) => {
    if (!ours?.peakBytes || !ours.tensorBytes || !names.includes(ours.case)) return [];
    const share = ours.peakBytes / ours.tensorBytes;
    const least = Math.min(...peers.filter(isRight).map(({ peakBytes = Number.POSITIVE_INFINITY }) => peakBytes));
    const isBelow = ours.peakBytes < least;
    const beside = isBelow ? "" : ` (a peer: ${figure(least / ours.tensorBytes)}x)`;
    return [{ case: nameOf(ours), isReached: share <= 1.1 && isBelow, figure: `${share.toFixed(2)}x${beside}` }];
  });
}

const isShown = (section: Section, names: readonly string[]): Outcome[] =>
  ownRows(section, names).map((row) => ({
    case: nameOf(row),
    isReached: isRight(row),
    figure: `${figure(row.timeMs!.median)} ms${isRight(row) ? "" : ", wrong"}`,
  }));

/** All aims, in the order of the report. */
export const TARGETS: readonly Target[] = [
  {
    text: "Prefill at least 3x faster than the fastest correct peer (median)",
    cases: PREFILL,
    isFor: isSwiftShaderInChrome,
    outcomes: (section) => fasterOutcomes(section, PREFILL, 3, false),
  },
  {
    text: "Decode at least 1.5x faster than the fastest correct peer (minimum)",
    cases: DECODE,
    isFor: isSwiftShaderInChrome,
    outcomes: (section) => fasterOutcomes(section, DECODE, 1.5, true),
  },
  {
    text: "Peak GPU bytes below every correct peer's, and at most 1.1x of Q, K, V and O",
    cases: [...PREFILL, ...DECODE],
    isFor: isOnCpu,
    outcomes: memoryOutcomes,
  },
  {
    text: "Non-causal prefill from 1024 tokens on: at least 55% of the FMA peak",
    cases: NON_CAUSAL,
    isFor: isOnCpu,
    outcomes: (section) => shareOutcomes(ownRows(section, NON_CAUSAL), 0.55, ({ peakShare }) => peakShare),
  },
  {
    text: "Causal at most 0.56 of the non-causal time, 4096 tokens",
    cases: [],
    isFor: isOnCpu,
    outcomes: (section) => ratioOutcomes(section, "prefill-4096-causal", "prefill-4096", 0.56),
  },
  {
    text: "Window of 256 at most 0.2 of the full time, 4096 tokens causal",
    cases: [],
    isFor: isOnCpu,
    outcomes: (section) => ratioOutcomes(section, "window-256-of-4096", "prefill-4096-causal", 0.2),
  },
  {
    text: "Grouped queries, head sizes 80, 96 and 256, softcap, window, 16,384 tokens causal: measured, and right",
    cases: [...SHOWN, ...SHOWN_LONG],
    isFor: isOnCpu,
    outcomes: (section) => isShown(section, [...SHOWN, ...SHOWN_LONG]),
  },
  {
    text: "Matmul, 1024 cubed: at least 55% of the FMA peak",
    cases: ["matmul-1024"],
    isFor: isOnCpu,
    outcomes: (section) => shareOutcomes(ownRows(section, ["matmul-1024"]), 0.55, ({ peakShare }) => peakShare),
  },
  {
    text: "Matmul of one row, 2048 x 8192 (decode): at least 70% of the read bandwidth",
    cases: ["matmul-decode-2048-8192"],
    isFor: isOnCpu,
    outcomes: (section) =>
      shareOutcomes(ownRows(section, ["matmul-decode-2048-8192"]), 0.7, ({ bandwidthShare }) => bandwidthShare),
  },
  {
    text: "On a GPU, f32 without matrices: at least 40% of the FMA peak, non-causal prefill",
    cases: NON_CAUSAL,
    isFor: isGpu,
    outcomes: (section) =>
      shareOutcomes(
        ownRows(section, NON_CAUSAL).filter(({ dtype }) => dtype !== "f16"),
        0.4,
        ({ peakShare }) => peakShare,
      ),
  },
  {
    text: "On a GPU, f16: at least 30% of the speed of torch's scaled_dot_product_attention",
    cases: [],
    isFor: isGpu,
    outcomes: (section) =>
      duels(section, PREFILL)
        .filter(({ dtype, peer }) => dtype === "f16" && peer?.contender === "torch")
        .map((duel) => ({
          case: nameOf(duel),
          isReached: (duel.timesFaster ?? 0) >= 0.3,
          figure: duel.timesFaster ? percent(duel.timesFaster) : "wrong or failed",
        })),
  },
];
