/**
 * Fault injection, for tests and the fault suite: a wire that damages what goes out at this end, at chosen messages, the
 * same way for the same seed. Never used by a ring that computes for people.
 */
import type { Wire } from "./types.ts";

/** What may befall a message: bits flipped, its end cut off, sent twice, swapped with the next, lost; or the wire is cut. */
export type FaultKind = "corrupt" | "truncate" | "repeat" | "reorder" | "drop" | "cut";

/** Faults of one wire. */
export interface FaultOptions {
  /** Which message each befalls, counted from 0 as they are sent; `every`: also each so-many-th after it. */
  faults: readonly { kind: FaultKind; at: number; every?: number }[];
  /** Only messages of at least this many bytes count (chunks have more than 16,384). Default 0: all. */
  leastBytes?: number;
  /** Of the bits that are flipped and the lengths that are cut. Default 1. */
  seed?: number;
  /** Called when a fault has happened. */
  onFault?(kind: FaultKind, message: number): void;
}

/** xorshift32 (Marsaglia 2003). */
function randomBits(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

class FaultyWire implements Wire {
  readonly kind: Wire["kind"];
  readonly maxMessageBytes: number;
  onClose: Wire["onClose"];
  private count = 0;
  private held: Uint8Array<ArrayBuffer> | undefined;
  private isCut = false;
  private readonly random: () => number;

  constructor(
    private readonly inner: Wire,
    private readonly options: FaultOptions,
  ) {
    this.kind = inner.kind;
    this.maxMessageBytes = inner.maxMessageBytes;
    this.random = randomBits(options.seed ?? 1);
    inner.onClose = (reason) => this.onClose?.(reason);
  }

  get bufferedBytes(): number {
    return this.inner.bufferedBytes;
  }

  get highWaterBytes(): number | undefined {
    return this.inner.highWaterBytes;
  }

  get onMessage(): Wire["onMessage"] {
    return this.inner.onMessage;
  }

  set onMessage(handler: Wire["onMessage"]) {
    this.inner.onMessage = handler;
  }

  send(message: Uint8Array<ArrayBuffer>): void {
    const counts = message.byteLength >= (this.options.leastBytes ?? 0);
    const index = counts ? this.count++ : -1;
    const fault = this.options.faults.find(
      ({ at, every }) => index === at || (every !== undefined && index > at && (index - at) % every === 0),
    );
    if (counts && fault) this.befall(fault.kind, message, index);
    else this.pass(message);
  }

  drained(): Promise<void> {
    return this.inner.drained();
  }

  close(): void {
    this.held = undefined;
    this.inner.onClose = undefined;
    this.inner.close();
  }

  /** What was held back goes after the message that came after it. */
  private pass(message: Uint8Array<ArrayBuffer>): void {
    const { held } = this;
    this.held = undefined;
    this.inner.send(message);
    if (held) this.inner.send(held);
  }

  private befall(kind: FaultKind, message: Uint8Array<ArrayBuffer>, index: number): void {
    this.options.onFault?.(kind, index);
    switch (kind) {
      case "corrupt":
        for (let flips = 0; flips < 3; flips++)
          message[this.random() % message.byteLength]! ^= 1 << (this.random() % 8);
        this.pass(message);
        return;
      case "truncate":
        this.pass(message.slice(0, this.random() % message.byteLength));
        return;
      case "repeat":
        this.pass(message.slice());
        this.inner.send(message);
        return;
      case "reorder":
        if (this.held) this.inner.send(this.held);
        this.held = message;
        return;
      case "drop":
        return;
      case "cut":
        if (this.isCut) return;
        this.isCut = true;
        this.inner.onClose = undefined;
        this.inner.close();
        queueMicrotask(() => this.onClose?.("the wire was cut by a fault"));
        return;
    }
  }
}

/** Lets faults befall what is sent at this end of a wire; the wire is the wrapper's own from then on. */
export const faulty = (wire: Wire, options: FaultOptions): Wire => new FaultyWire(wire, options);
