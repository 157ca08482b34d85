/** What wires have in common: who waits for room, and messages that come before anyone listens. */
import { LinkError } from "../errors.ts";

/** Bytes that may come before anyone listens. */
const MAX_EARLY_BYTES = 8 * 1024 * 1024;

/** Those who wait for a wire to drain. */
export class Waiters {
  private waiters: { resolve(): void; reject(error: Error): void }[] = [];

  wait(): Promise<void> {
    return new Promise((resolve, reject) => this.waiters.push({ resolve, reject }));
  }

  release(): void {
    for (const waiter of this.waiters.splice(0)) waiter.resolve();
  }

  fail(): void {
    for (const waiter of this.waiters.splice(0)) waiter.reject(closedError("drained"));
  }
}

/** What every method of a closed wire throws. */
export const closedError = (name: string): LinkError =>
  new LinkError(`${name}: expected an open wire, this one is closed`, "closed");

/** @throws {LinkError} where the message is longer than the wire takes. */
export function checkLength(message: Uint8Array, mostBytes: number): void {
  if (message.byteLength > mostBytes)
    throw new LinkError(`send: expected at most ${mostBytes} bytes, got ${message.byteLength}`, "closed");
}

/** Holds messages until there is a listener, then passes them on. */
export class Inbox {
  private handler: ((message: Uint8Array<ArrayBuffer>) => void) | undefined;
  private early: Uint8Array<ArrayBuffer>[] = [];
  private earlyBytes = 0;

  get listener() {
    return this.handler;
  }

  /** What came before is told at once. */
  set listener(handler: ((message: Uint8Array<ArrayBuffer>) => void) | undefined) {
    this.handler = handler;
    if (!handler) return;
    const { early } = this;
    this.early = [];
    this.earlyBytes = 0;
    // In a later task than the listener's own setting, but before anything that comes after.
    for (const message of early) handler(message);
  }

  /** @returns false where too much came that nobody listened to. */
  take(message: Uint8Array<ArrayBuffer>): boolean {
    if (this.handler) {
      this.handler(message);
      return true;
    }
    this.early.push(message);
    this.earlyBytes += message.byteLength + 64;
    return this.earlyBytes <= MAX_EARLY_BYTES;
  }
}
