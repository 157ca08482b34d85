/** What crosses between the driven page and Node. */

/** A job's outcome: an error crosses as data, so that its name survives. */
export type JobAnswer<T> = { ok: true; result: T } | { ok: false; name: string; message: string };
