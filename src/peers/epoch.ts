/**
 * Epochs: who is in the ring, in which order, from one roll call to the next. Their numbers are unique, because every leader
 * counts in a lane of its own: a higher number always wins, and of two leaders that open the same one in ignorance of each
 * other, the one with the lower seat does.
 */
import type { TokenRange } from "../ring/types.ts";
import type { Seat } from "./messages.ts";

/** Seats, and so lanes of numbers: as many as a ring has ranks. */
export const SEATS = 64;

/** The number of the `counter`-th epoch, opened by whoever sits on `seat`. */
export const epochNumber = (counter: number, seat: number): number => counter * SEATS + (SEATS - 1 - seat);

/** How many epochs came before, whoever opened them. */
export const epochCounter = (number: number): number => Math.floor(number / SEATS);

/** One epoch as one of its ranks sees it. */
export interface Epoch {
  readonly number: number;
  readonly leaderId: string;
  /** Rank 0 leads. */
  readonly ranks: readonly Seat[];
  readonly rank: number;
  readonly reason: string;
  /** What every rank holds: told when the roll call is over, kept up to date by what is done since. */
  held: TokenRange[][] | undefined;
}

/** The lowest seat that is free. @returns undefined where the ring is full. */
export function freeSeat(taken: readonly Seat[]): number | undefined {
  const seats = new Set(taken.map(({ seat }) => seat));
  for (let seat = 0; seat < SEATS; seat++) if (!seats.has(seat)) return seat;
  return undefined;
}
