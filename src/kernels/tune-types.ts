/** Options of tuning, and where its findings are kept: types only. */
import type { AttentionWork } from "./candidates.ts";
import type { TunedRecord } from "./tuned-record.ts";

/** Where tuned choices outlive the program. Any failure of it is told in the choice's `why`, and breaks nothing. */
export interface TunedStore {
  /** What it is and where, for messages: e.g. "IndexedDB ringwise". */
  readonly name: string;
  /** What was kept under the key, unchecked; undefined where nothing was. */
  get(key: string): Promise<unknown>;
  /** Keeps a record under the key, in place of what was there. */
  set(key: string, record: TunedRecord): Promise<void>;
}

/** What tuning tells while it goes. */
export interface TuneProgress {
  /** The class of shapes. */
  shape: string;
  /** Candidates that are through with this stage, of how many. */
  done: number;
  total: number;
  /** One line for people. */
  message: string;
}

/** Options of tuning. */
export interface TuneOptions {
  /**
   * Milliseconds for everything together: compiling, checking, timing, for many and for few query rows. What is under way when
   * they are over is not waited for, where the platform lets the program go on meanwhile (in Node a compile may hold it up). 0: nothing is measured, only what the store holds is taken. Default 2000.
   */
  budgetMs?: number;
  /** Candidates that are tried at most, per kind of work. Default 6. */
  maxCandidates?: number;
  /** Kinds of work to tune. Default: many and few query rows. */
  works?: readonly AttentionWork[];
  /** Ids of the candidates that are tried, as `attentionCandidates` lists them. Default: all. */
  candidates?: readonly string[];
  /** Measures anew what the store already knows, or the library brings along. */
  isAnew?: boolean;
  /** Default: IndexedDB in a browser; in Node files under $XDG_CACHE_HOME/ringwise/tuned. null: kept by this program only. */
  store?: TunedStore | null;
  /** Called off: rejects with `signal.reason`, and gives back all GPU memory. */
  signal?: AbortSignal;
  onProgress?: (progress: TuneProgress) => void;
}
