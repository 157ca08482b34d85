/**
 * How blocks get from rank to rank, and how their pages come within reach of the GPU. The ring's loop knows this contract
 * and nothing else: whether the next rank is a buffer beside this one or a machine elsewhere is the transport's business.
 */
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { GpuPage, KvPage, RingBlock } from "./kv-page.ts";
import type { RankStep } from "./rank-types.ts";

/** What a rank of a ring over links tells of a step beside `RingStep`. */
export type StepFields = Partial<RankStep>;

/** A page that kernels can bind now. */
export interface ArrivedPage {
  page: GpuPage;
  /** `performance.now()` when it began to arrive, and how long that took. 0 ms where it was there. */
  startMs: number;
  transferMs: number;
  /** Encodes what must be done to the page before it is met (f16 from a wire is widened). */
  prepare?(target: CommandTarget): void;
  /** To be called once the commands that read the page are submitted, with what resolves when they are done. */
  release(done: Promise<unknown>): void;
}

/** One time around the ring. Passes do not see each other's blocks. */
export interface TransportPass {
  /** The ranks that compute here, ascending; all of them where the whole ring is on one device. */
  readonly ranks: readonly number[];
  /** What the events of all steps say alike. */
  readonly stepFields?: StepFields;
  /**
   * Gives `block` to `sendRank(rank)` and takes what `recvRank(rank)` gives: resolves when it is here. All ranks post theirs
   * before any of them waits, and while they compute on the block they hold, which may be read until the promise resolves.
   */
  sendRecv(rank: number, block: RingBlock): Promise<RingBlock>;
  /** Brings a page into GPU memory. */
  bring(page: KvPage): ArrivedPage | Promise<ArrivedPage>;
}

/** A kind of link between the ranks. */
export interface Transport {
  /** For messages and statistics. */
  readonly name: string;
  /** Begins a pass; everything in it rejects with `signal.reason` once that is aborted. */
  beginPass(worldSize: number, signal: AbortSignal): TransportPass;
  /** Frees what the transport made. */
  destroy(): void;
}
