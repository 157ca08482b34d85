/** What tuning finds, as it is kept, shipped and printed. */

/** How one candidate did. */
export interface TunedCandidate {
  id: string;
  /**
   * "ok": right, and timed; "slow": right, and given up because it was far behind or the budget was spent; "wrong": its
   * result is not the plain computation's; "failed": did not compile or run; "not measured": the budget was spent before.
   */
  status: "ok" | "slow" | "wrong" | "failed" | "not measured";
  /** Shortest of the timed runs, in milliseconds. */
  timeMs?: number;
  /** Time to compile, in milliseconds. */
  compileMs?: number;
  /** Why the status is not "ok", or what the error was. */
  reason?: string;
}

/** One class of shapes on one adapter, measured. */
export interface TunedRecord {
  /** The record's format. */
  version: 1;
  /** See `adapterKey`; "unknown" where the browser tells nothing. */
  adapter: string;
  /** See `driverKey`. */
  driver: string;
  /** Version of Ringwise. */
  library: string;
  /** Of the kernels' text and knobs: another list of candidates makes a record old. */
  kernels: string;
  /** See `shapeClass`. */
  shape: string;
  /** The winner's id. */
  id: string;
  /** What was timed, e.g. "512 x 512, 4 heads of 64". */
  measuredOn: string;
  /** ISO date and time. */
  date: string;
  candidates: TunedCandidate[];
}

/** Choices that the library brings along for one adapter. */
export interface ShippedAdapter {
  /** See `adapterKey`. */
  adapter: string;
  /** Driver and browser that it was measured with; others of the same adapter take the choice too. */
  driver: string;
  library: string;
  /** ISO date. */
  date: string;
  /** Class of shapes -> id of the candidate. */
  choices: Readonly<Record<string, string>>;
}

/** A record that came from a store, or undefined where it is none: stores may hold anything. */
export function parseRecord(value: unknown): TunedRecord | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const record = value as Partial<Record<keyof TunedRecord, unknown>>;
  if (record.version !== 1 || !Array.isArray(record.candidates)) return undefined;
  const texts = ["adapter", "driver", "library", "kernels", "shape", "id", "measuredOn", "date"] as const;
  return texts.every((name) => typeof record[name] === "string") ? (value as TunedRecord) : undefined;
}
