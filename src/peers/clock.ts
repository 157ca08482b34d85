/** Time, as the ring of peers sees it: one place to look at, so that tests can let hours pass in a moment. */

import type { LinkClock } from "../link/link.ts";

/** Tells the time and calls back later; the links' clock, too. */
export type PeerClock = LinkClock;

/** The platform's clock. */
export const systemClock: PeerClock = {
  now: () => performance.now(),
  after(milliseconds, callback) {
    const timer = setTimeout(callback, milliseconds);
    return () => clearTimeout(timer);
  },
  every(milliseconds, callback) {
    const timer = setInterval(callback, milliseconds);
    return () => clearInterval(timer);
  },
};

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
