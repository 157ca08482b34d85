/** The document that a bench run writes: what `--json` prints, bench/results/ keeps, and `--compare` reads. */
import type { AttentionDesign, AttentionKind } from "../src/index.ts";
import type { Summary } from "./statistics.ts";

/** One measured case. */
export interface BenchResult {
  case: string;
  /** Which family of figures this is: decides the columns that mean something. */
  group: "attention" | "ring" | "memory" | "model";
  /** e.g. "flash, register" */
  implementation: string;
  /** Milliseconds of one run; absent where only bytes are measured. */
  timeMs?: Summary;
  /** Tokens of the query, for plots over length. */
  seqLen?: number;
  isCausal?: boolean;
  /** Billions of multiplications and additions a second that the visible pairs need, at the median. */
  gflops?: number;
  /** The adapter's FMA peak, measured in turn with the case, and the case's share of it. */
  fmaPeakGflops?: number;
  peakShare?: number;
  /** Bytes of query, key, value and output; peak bytes beyond them, from the ledger; and their share. */
  tensorBytes?: number;
  extraBytes?: number;
  extraShare?: number;
  /** Largest absolute difference from the float64 oracle, and over how many query rows. */
  maxError?: number;
  errorRows?: number;
  /** Further figures by name, in the unit that the name says. */
  figures?: Record<string, number>;
}

/** A whole run. */
export interface BenchDocument {
  ringwise: string;
  date: string;
  runtime: "chrome" | "node";
  /** Browser and version, or Node's. */
  host: string;
  /** Processor and count, as Node tells them. */
  machine: string;
  adapter: string;
  results: BenchResult[];
}

/** What the page and Node are asked to run. */
export interface BenchJob {
  cases: string[];
  warmups: number;
  repeats: number;
  minSampleMs: number;
  /** Kinds of attention to measure in attention cases. */
  attention: AttentionKind[];
  design: AttentionDesign;
}

/** What a run tells while it goes. */
export type BenchEvent = { type: "progress"; message: string };

/** What the device side answers: the rest of the document is the host's. */
export interface BenchAnswer {
  adapter: string;
  results: BenchResult[];
}
