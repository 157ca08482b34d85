/** Time, as the ring of peers sees it: one place to look at, so that tests can let hours pass in a moment. */

import type { LinkClock } from "../link/link.ts";

/** Tells the time and calls back later; the links' clock, too. */
export type PeerClock = LinkClock;

/** Resolves after so many milliseconds. @throws signal.reason */
export function sleep(clock: PeerClock, milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = () => {
      cancel();
      reject(signal!.reason);
    };
    const cancel = clock.after(milliseconds, () => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    });
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}
