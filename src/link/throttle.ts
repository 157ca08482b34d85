/**
 * A wire of chosen bandwidth and latency around any other: how a link over the internet behaves, on one machine. Takes no
 * time of the processor: what goes out is dated, and one timer waits for the earliest date. Measured against the clock, so
 * late timers lose nothing: what is overdue goes out together.
 */
import { HEADER_BYTES } from "./frame.ts";
import type { Wire } from "./types.ts";
import { checkLength, closedError, Waiters } from "./wire-queue.ts";

/** What a throttled wire is like, for what is sent at its end. */
export interface ThrottleOptions {
  /** Default: no bound. */
  bytesPerSecond?: number;
  /** One way. Default 0. */
  latencyMs?: number;
  /** Bytes that may wait for their turn. Default: a tenth of a second, 64 KiB to 1 MiB. */
  highWaterBytes?: number;
}

/** Chunks of 64 KiB, as over WebRTC: a slow line must not be given a quarter of a second at once. */
const MAX_MESSAGE_BYTES = HEADER_BYTES + 64 * 1024;

class ThrottledWire implements Wire {
  readonly kind: Wire["kind"];
  readonly maxMessageBytes: number;
  readonly highWaterBytes: number;
  onClose: Wire["onClose"];
  private readonly bytesPerMs: number;
  private readonly latencyMs: number;
  private readonly queue: { message: Uint8Array<ArrayBuffer>; dueMs: number }[] = [];
  /** When all that was given to the line has left this end. */
  private lineFreeMs = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private drainTimer: ReturnType<typeof setTimeout> | undefined;
  private isClosed = false;
  private readonly waiters = new Waiters();

  constructor(
    private readonly inner: Wire,
    { bytesPerSecond = Number.POSITIVE_INFINITY, latencyMs = 0, highWaterBytes }: ThrottleOptions,
  ) {
    this.kind = inner.kind;
    this.maxMessageBytes = Math.min(inner.maxMessageBytes, MAX_MESSAGE_BYTES);
    this.bytesPerMs = bytesPerSecond / 1000;
    this.latencyMs = latencyMs;
    this.highWaterBytes = highWaterBytes ?? Math.min(2 ** 20, Math.max(2 ** 16, bytesPerSecond / 10));
    inner.onClose = (reason) => this.shut(reason);
  }

  get bufferedBytes(): number {
    const innerFull = this.inner.highWaterBytes ?? 2 ** 20;
    return Math.max(
      this.bytesPerMs === Number.POSITIVE_INFINITY ? 0 : this.waitingMs() * this.bytesPerMs,
      this.inner.bufferedBytes >= innerFull ? this.inner.bufferedBytes : 0,
    );
  }

  get onMessage(): Wire["onMessage"] {
    return this.inner.onMessage;
  }

  set onMessage(handler: Wire["onMessage"]) {
    this.inner.onMessage = handler;
  }

  send(message: Uint8Array<ArrayBuffer>): void {
    if (this.isClosed) throw closedError("send");
    checkLength(message, this.maxMessageBytes);
    // An idle line starts now: it saves nothing up.
    this.lineFreeMs = Math.max(this.lineFreeMs, performance.now()) + message.byteLength / this.bytesPerMs;
    this.queue.push({ message, dueMs: this.lineFreeMs + this.latencyMs });
    this.schedule();
  }

  async drained(): Promise<void> {
    if (this.isClosed) throw closedError("drained");
    await this.inner.drained();
    if (this.overMs() <= 0) return;
    const waited = this.waiters.wait();
    this.awaitDrained();
    await waited;
  }

  /** What was sent before still goes out, at once. */
  close(): void {
    if (this.isClosed) return;
    for (const { message } of this.queue.splice(0)) this.inner.send(message);
    this.stop();
    this.inner.onClose = undefined;
    this.inner.close();
  }

  /** Time that the line needs for what was given to it. */
  private waitingMs(): number {
    return Math.max(0, this.lineFreeMs - performance.now());
  }

  /** Time until half of what may wait does. */
  private overMs(): number {
    return this.waitingMs() - this.highWaterBytes / 2 / this.bytesPerMs;
  }

  private awaitDrained(): void {
    this.drainTimer ??= setTimeout(() => {
      this.drainTimer = undefined;
      if (this.overMs() > 0) this.awaitDrained();
      else this.waiters.release();
    }, this.overMs());
  }

  private schedule(): void {
    const next = this.queue[0];
    if (next) this.timer ??= setTimeout(() => this.deliver(), Math.max(0, next.dueMs - performance.now()));
  }

  private deliver(): void {
    this.timer = undefined;
    const now = performance.now();
    try {
      while (!this.isClosed && this.queue.length > 0 && this.queue[0]!.dueMs <= now)
        this.inner.send(this.queue.shift()!.message);
    } catch (error) {
      this.shut(String((error as Error).message));
    }
    if (!this.isClosed) this.schedule();
  }

  private stop(): void {
    this.isClosed = true;
    clearTimeout(this.timer);
    clearTimeout(this.drainTimer);
    this.queue.length = 0;
    this.waiters.fail();
  }

  private shut(reason: string): void {
    if (this.isClosed) return;
    this.stop();
    this.onClose?.(reason);
  }
}

/** Slows down what is sent at this end of a wire; the wire is the wrapper's own from then on. Wrap both ends for both ways. */
export const throttle = (wire: Wire, options: ThrottleOptions): Wire => new ThrottledWire(wire, options);
