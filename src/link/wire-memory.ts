/** A pair of wires in one thread's memory: for ranks of one page, and for tests. */
import { HEADER_BYTES } from "./frame.ts";
import type { Wire } from "./types.ts";
import { checkLength, closedError, Waiters } from "./wire-queue.ts";

const HIGH_WATER_BYTES = 4 * 1024 * 1024;
const LOW_WATER_BYTES = 2 * 1024 * 1024;

/** Runs soon, after what has happened outside was told of; unlike a timer, without delay. */
const soon: (then: () => void) => void =
  typeof setImmediate === "function"
    ? (then) => void setImmediate(then)
    : (then) => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => {
          port1.close();
          then();
        };
        port2.postMessage(undefined);
      };

/** One end of {@link createMemoryWires}. */
export interface MemoryWire extends Wire {
  /** Breaks the connection: what is on its way is lost, both ends close. */
  cut(reason?: string): void;
}

class MemoryEnd implements MemoryWire {
  readonly kind = "memory";
  readonly maxMessageBytes = HEADER_BYTES + 256 * 1024;
  readonly highWaterBytes = HIGH_WATER_BYTES;
  bufferedBytes = 0;
  onClose: Wire["onClose"];
  other!: MemoryEnd;
  private isClosed = false;
  private handler: Wire["onMessage"];
  private readonly inbox: Uint8Array<ArrayBuffer>[] = [];
  private isScheduled = false;
  private otherReason: string | undefined;
  private readonly waiters = new Waiters();

  get onMessage(): Wire["onMessage"] {
    return this.handler;
  }

  /** What came before anyone listened is told then. */
  set onMessage(handler: Wire["onMessage"]) {
    this.handler = handler;
    this.schedule();
  }

  send(message: Uint8Array<ArrayBuffer>): void {
    if (this.isClosed) throw closedError("send");
    checkLength(message, this.maxMessageBytes);
    this.bufferedBytes += message.byteLength;
    this.other.inbox.push(message);
    this.other.schedule();
  }

  drained(): Promise<void> {
    if (this.isClosed) return Promise.reject(closedError("drained"));
    if (this.bufferedBytes <= LOW_WATER_BYTES) return Promise.resolve();
    return this.waiters.wait();
  }

  close(): void {
    if (this.isClosed) return;
    this.shut();
    this.other.otherReason = "the other end closed";
    this.other.schedule();
  }

  cut(reason = "the wire was cut"): void {
    for (const end of [this, this.other]) {
      const { onClose } = end;
      if (end.isClosed) continue;
      end.shut();
      onClose?.(reason);
    }
  }

  private shut(): void {
    this.isClosed = true;
    this.inbox.length = 0;
    this.waiters.fail();
  }

  private schedule(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    soon(() => {
      this.isScheduled = false;
      this.deliver();
    });
  }

  private deliver(): void {
    while (this.handler && !this.isClosed && this.inbox.length > 0) {
      const message = this.inbox.shift()!;
      this.other.left(message.byteLength);
      this.handler(message);
    }
    if (this.otherReason === undefined || this.isClosed || this.inbox.length > 0) return;
    this.shut();
    this.onClose?.(this.otherReason);
  }

  private left(byteLength: number): void {
    this.bufferedBytes -= byteLength;
    if (this.bufferedBytes <= LOW_WATER_BYTES) this.waiters.release();
  }
}

/** Two wires, each the other's other end. Messages arrive in order, in a later task. */
export function createMemoryWires(): [MemoryWire, MemoryWire] {
  const ends: [MemoryEnd, MemoryEnd] = [new MemoryEnd(), new MemoryEnd()];
  ends[0].other = ends[1];
  ends[1].other = ends[0];
  return ends;
}
