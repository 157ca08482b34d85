/**
 * What a contender is: a page of its own that loads one library, gets a device, and is asked things of a kind
 * ("attention", ...). The host (src/cli/contender-host.ts) calls these by name through `globalThis.ringwiseContender`.
 */
import type { AttentionCase } from "../../test/cases.ts";

/** Something that is ready to be timed. */
export interface Prepared {
  /** What runs, in the contender's own words: "MultiHeadAttention". */
  implementation: string;
  /** The files of its kernels, where it can tell. */
  kernels?: string[];
  /**
   * Runs `count` times; resolves when the GPU has done it all. Each run is submitted and awaited before the next one, with every
   * contender: one that queued its runs would hide what the others show.
   */
  run(count: number): Promise<void>;
  /** What the last run made, as far as the question asks: for attention, rows of the output. */
  answer(question: unknown): Promise<unknown>;
  /** Gives back what was taken for it. */
  release(): void | Promise<void>;
}

/** A library in its page. */
export interface Contender {
  /** Loads the library and gets its device. */
  open(): Promise<GPUDevice>;
  /**
   * What it can be asked, by kind. A kind's function takes the job (JSON), puts inputs on the GPU and compiles.
   * @throws {CannotAskError} where the library has no way to compute the job.
   */
  kinds: Record<string, (device: GPUDevice, job: never) => Promise<Prepared>>;
}

/** The library has no way to be asked for this: the message says what it lacks. */
export class CannotAskError extends Error {
  override name = "CannotAskError";
}

/** Job of kind "attention". */
export interface AttentionJob {
  shape: AttentionCase;
  /** Which of its operators a library is to use, where it has several; Ringwise's are designs. */
  operator?: string;
}

/** Question to a prepared attention: rows of the output `[B, T, H, E]`; the answer is `[B, rows, H, E]` as plain numbers. */
export interface AttentionQuestion {
  rows: number[];
}

/** What a page tells once its library stands. */
export interface Opened {
  adapter: string;
  /** The adapter runs on the CPU: the GPU process's processor time means something. */
  isCpu: boolean;
}

/** Bytes and complaints since the page was opened. */
export interface PageGpu {
  /** Most bytes of GPU buffers at once, counted at createBuffer. */
  peakBytes: number;
  /** The largest buffer that the device's limits refused; 0 where none was. */
  refusedBytes: number;
  /** First messages that the device raised and the library did not catch. */
  errors: string[];
  /** Why the device was lost. */
  lost?: string;
}

/** What a page tells of what it has prepared. */
export type PreparedFacts = Pick<Prepared, "implementation" | "kernels">;

/** The methods of a page, by name. */
export interface ContenderMethods {
  open(): Promise<Opened>;
  prepare(kind: string, job: unknown): Promise<PreparedFacts>;
  /** Milliseconds of one of `count` runs in a row. */
  sample(count: number): Promise<number>;
  answer(question: unknown): Promise<unknown>;
  gpu(): Promise<PageGpu>;
  release(): Promise<void>;
}

/**
 * How masks of a case can be asked of a library that knows only "all keys" and "causal from position 0".
 * @throws {CannotAskError} where it cannot.
 */
export function plainMask(shape: AttentionCase, library: string): "none" | "causal" {
  const { seqLen, kvSeqLen, isCausal, window, causalBlockSize = 1, queryStart = 0 } = shape;
  if (window && window < kvSeqLen) throw new CannotAskError(`${library} has no sliding window`);
  // The last query token of a decode sees every key.
  if (!isCausal || queryStart + 1 >= kvSeqLen) return "none";
  if (causalBlockSize === 1 && queryStart === 0 && seqLen === kvSeqLen) return "causal";
  throw new CannotAskError(`${library} has causal masks from position 0 only, with as many queries as keys`);
}
