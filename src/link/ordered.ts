/**
 * The ordered channel: numbered frames over lane 0, each taken once and in order, whatever happens to wires meanwhile.
 *
 * Every frame of the link tells which number its sender expects next, which lets the other end forget what came before.
 * Wires are in order, so loss is seen without clocks: a number too high, or a heartbeat that tells of numbers that never
 * came, is answered by `received` with code 1, and everything from there on goes out again (go-back-N). So does everything
 * that is not acknowledged when wires are replaced.
 */
import { FRAME, type Frame, type FrameFields, HEADER_BYTES } from "./frame.ts";

/** Bytes on their way and not acknowledged; more waits. */
const WINDOW_BYTES = 1024 * 1024;
/** Bytes that may wait for a silent peer before the link gives up. */
const MAX_HELD_BYTES = 64 * 1024 * 1024;
/** Unacknowledged bytes received that are acknowledged without waiting. */
const ACKNOWLEDGE_BYTES = 128 * 1024;
const ACKNOWLEDGE_MS = 20;

/** What the channel needs of its link. */
export interface OrderedHost {
  /** Whether there is a wire. */
  readonly hasWires: boolean;
  transmit(fields: FrameFields, sequence: number): void;
  after(milliseconds: number, then: () => void): () => void;
  violation(reason: string): void;
  /** The other end takes nothing. */
  overflow(): void;
  /** Something was acknowledged. */
  onRoom(): void;
  countDuplicate(): void;
}

interface Entry {
  fields: FrameFields;
  sequence: number;
  bytes: number;
}

/** See the module's comment. */
export class OrderedChannel {
  /** Number of the frame that the other end is to send next. */
  expected = 1;
  /** Bytes that wait to be sent or acknowledged. */
  heldBytes = 0;
  private nextSequence = 1;
  private readonly entries: Entry[] = [];
  /** How many of `entries` are on their way over the present wires, and their bytes. */
  private sentCount = 0;
  private sentBytes = 0;
  /** Highest number that ever went out, plus one. */
  private tail = 1;
  /** The gap that was told last. */
  private toldGap = 0;
  private owedBytes = 0;
  private cancelAcknowledge: (() => void) | undefined;

  constructor(private readonly host: OrderedHost) {}

  /** One more than the number of the last frame that was sent: what heartbeats tell. */
  get sentTail(): number {
    return this.tail;
  }

  /** Sends in order; the payload is kept until acknowledged. */
  push(fields: FrameFields): void {
    const bytes = HEADER_BYTES + (fields.payload?.byteLength ?? 0);
    this.entries.push({ fields, sequence: this.nextSequence++, bytes });
    this.heldBytes += bytes;
    if (this.heldBytes > MAX_HELD_BYTES) this.host.overflow();
    else this.flush();
  }

  /** Sends what the window has room for. */
  flush(): void {
    while (this.host.hasWires && this.sentCount < this.entries.length && this.sentBytes < WINDOW_BYTES) {
      const entry = this.entries[this.sentCount]!;
      this.sentCount++;
      this.sentBytes += entry.bytes;
      this.tail = Math.max(this.tail, entry.sequence + 1);
      this.host.transmit(entry.fields, entry.sequence);
    }
  }

  /** All that is not acknowledged goes out again. */
  rewind(): void {
    this.sentCount = 0;
    this.sentBytes = 0;
    this.toldGap = 0;
    this.flush();
  }

  /** The other end has everything before `expected`. */
  acknowledged(expected: number): void {
    if (expected > this.tail) {
      this.host.violation(`acknowledged frame ${expected - 1}, the last that was sent is ${this.tail - 1}`);
      return;
    }
    let gone = 0;
    while (gone < this.entries.length && this.entries[gone]!.sequence < expected) {
      const { bytes } = this.entries[gone]!;
      this.heldBytes -= bytes;
      if (gone < this.sentCount) this.sentBytes -= bytes;
      gone++;
    }
    if (gone === 0) return;
    this.entries.splice(0, gone);
    this.sentCount = Math.max(0, this.sentCount - gone);
    this.flush();
    this.host.onRoom();
  }

  /** Whether an ordered frame that came is the next one; it counts as taken then. */
  accept(frame: Frame): boolean {
    if (frame.sequence !== this.expected) {
      if (frame.sequence < this.expected) {
        this.host.countDuplicate();
        this.owe(0);
      } else this.tellGap();
      return false;
    }
    this.expected++;
    this.owe(HEADER_BYTES + frame.payload.byteLength);
    return true;
  }

  /** A heartbeat tells what has been sent before it. */
  onTail(tail: number): void {
    if (tail <= this.expected) return;
    this.toldGap = 0;
    this.tellGap();
  }

  /** A frame went out, and told what is expected. */
  told(): void {
    this.owedBytes = 0;
    this.cancelAcknowledge?.();
    this.cancelAcknowledge = undefined;
  }

  /** Forgets everything. */
  clear(): void {
    this.told();
    this.entries.length = 0;
    this.heldBytes = this.sentBytes = this.sentCount = 0;
  }

  /** Once per gap; a heartbeat asks again. */
  private tellGap(): void {
    if (this.toldGap === this.expected) return;
    this.toldGap = this.expected;
    this.host.transmit({ type: FRAME.received, code: 1 }, 0);
  }

  private owe(bytes: number): void {
    this.owedBytes += bytes;
    if (this.owedBytes >= ACKNOWLEDGE_BYTES) this.host.transmit({ type: FRAME.received }, 0);
    else
      this.cancelAcknowledge ??= this.host.after(ACKNOWLEDGE_MS, () => {
        this.cancelAcknowledge = undefined;
        this.host.transmit({ type: FRAME.received }, 0);
      });
  }
}
