/** What a rank does, one thing after the other; a new epoch ends what goes on and everything that waits behind it. */
import { PeerError } from "../errors.ts";
import type { RankRun } from "../model/rank-types.ts";

/** See the module's comment. */
export class RankWork {
  private tail: Promise<unknown> = Promise.resolve();
  private controller = new AbortController();

  constructor(private readonly rank: () => Promise<RankRun>) {}

  /** Ends what goes on and what waits. What is asked for from now on begins when that has ended and is rolled back. */
  interrupt(reason: string): void {
    this.controller.abort(new PeerError(reason));
    this.controller = new AbortController();
  }

  /**
   * Does a piece of work when its turn comes. What it kept is committed when it resolves, and rolled back when it rejects:
   * K/V of a token are what they are, whatever becomes of the operation on other ranks.
   */
  run<T>(work: (rank: RankRun, signal: AbortSignal) => Promise<T>): Promise<T> {
    const { signal } = this.controller;
    const result = this.tail.then(async () => {
      signal.throwIfAborted();
      const rank = await this.rank();
      signal.throwIfAborted();
      try {
        const done = await work(rank, signal);
        rank.commit();
        return done;
      } catch (error) {
        try {
          rank.rollback();
        } catch {
          // The run itself is gone (a lost device): there is nothing to roll back.
        }
        throw signal.aborted ? signal.reason : error;
      }
    });
    this.tail = result.catch(() => {});
    return result;
  }
}
