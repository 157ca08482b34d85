/** The document that a bench run writes: what `--json` prints, bench/results/ keeps, and `--compare` reads. */
import type { AttentionDesign, AttentionKind, Dtype } from "../src/index.ts";
import type { Summary } from "./statistics.ts";

/** One measured case. */
export interface BenchResult {
  case: string;
  /** Which family of figures this is: decides the columns that mean something. */
  group: "attention" | "ring" | "memory" | "model" | "matmul" | "bandwidth";
  /** e.g. "flash, register", or a peer's own name for what it runs. */
  implementation: string;
  /** Whose implementation. Absent: Ringwise's. */
  contender?: Contender;
  /** Absent: "ok". "wrong": ran, and its result is not the oracle's. "failed": threw, or could not be asked. */
  status?: "ok" | "wrong" | "failed";
  /** Why the status is not "ok", as a sentence. */
  reason?: string;
  /** Element type of the tensors. Absent: "f32". */
  dtype?: "f32" | "f16";
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
  /** Spread of the samples of that peak: what the share of it scatters by besides the case's own spread. */
  fmaPeakSpread?: number;
  /** Bytes of query, key, value and output; peak bytes beyond them, from the ledger; and their share. */
  tensorBytes?: number;
  extraBytes?: number;
  extraShare?: number;
  /** Peak bytes of GPU buffers while the case ran, counted at createBuffer: inputs, outputs and everything else. */
  peakBytes?: number;
  /** Processor seconds that the GPU process took for one run (CPU adapters only). */
  cpuSeconds?: number;
  /** Bytes that must be read at least, per second of the median, in GB/s; and the share of the read bandwidth of the same run. */
  readGBps?: number;
  bandwidthShare?: number;
  /** That read bandwidth, in GB/s. */
  readPeakGBps?: number;
  /** Kernel files that the case ran, e.g. "attention.wgsl", as their pipelines' labels say. */
  kernels?: string[];
  /** Largest absolute difference from the float64 oracle, and over how many query rows. */
  maxError?: number;
  errorRows?: number;
  /** Further figures by name, in the unit that the name says. */
  figures?: Record<string, number>;
}

/** Who is measured. */
export type Contender = "ringwise" | "onnxruntime-web" | "jax-js" | "tfjs" | "torch";

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
  /** The command that was run, as one would type it. */
  command?: string;
  /** Versions of what took part: Chrome or Node, Ringwise, each peer's package. */
  versions?: Record<string, string>;
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
  /** Element types of the attention, matmul and MLP cases. Absent: f32, and f16 where the device has shader-f16. */
  dtypes?: readonly Dtype[];
}

/** What a run tells while it goes. */
export type BenchEvent =
  | { type: "progress"; message: string }
  /** All results so far: a run that is broken off keeps what it has. */
  | { type: "results"; answer: BenchAnswer };

/** What the device side answers: the rest of the document is the host's. */
export interface BenchAnswer {
  adapter: string;
  results: BenchResult[];
}
