/** The words of the ring, shared by its schedule, its loop and those who watch it. */

/**
 * Which tokens a rank owns. `contiguous`: one run each. `zigzag`: runs r and 2n-1-r of 2n, so that causal work is even.
 * `striped`: tokens r, r+n, r+2n, ...
 */
export type RingLayout = "contiguous" | "zigzag" | "striped";

/** Where K/V blocks live: in GPU memory, or in host memory and streamed through two staging buffers. */
export type BlockMemory = "gpu" | "host";

/** `count` tokens at positions `start, start + stride, ...`. */
export interface TokenRange {
  start: number;
  stride: number;
  count: number;
}

/** One ring step of one rank, as the events of a run tell it. Times in milliseconds on the host's clock. */
export interface RingStep {
  /** 0 to worldSize - 1. */
  step: number;
  rank: number;
  /** Whose block this rank meets in this step. */
  kvRank: number;
  /** The mask hides the whole block from these queries: nothing was computed. */
  isSkipped: boolean;
  queryTokens: number;
  kvTokens: number;
  computeMs: number;
  /**
   * Time the block took to arrive (0 where blocks stay in GPU memory). Blocks in host memory: what the host spends on
   * `queue.writeBuffer`; the copy on the GPU's side is not seen from here, and counts as computeMs where it is waited for.
   */
  transferMs: number;
  /** Exposed communication: the part of transferMs in which the GPU had nothing to do. */
  waitMs: number;
  /** `performance.now()` at the step's start. */
  startMs: number;
}
