/**
 * A wire over a MessagePort: to a worker, between tabs (through a SharedWorker), or between threads of Node. Buffers are
 * moved, not copied. Ports tell nothing of what waits in them, so the other end says how much it has taken; a number in
 * place of a buffer is that.
 */
import { HEADER_BYTES } from "./frame.ts";
import type { LinkKind, Wire } from "./types.ts";
import { checkLength, closedError, Inbox, Waiters } from "./wire-queue.ts";

const HIGH_WATER_BYTES = 4 * 1024 * 1024;
const LOW_WATER_BYTES = 2 * 1024 * 1024;
/** Taken bytes that are told at a time. */
const TELL_BYTES = 256 * 1024;
const MAX_MESSAGE_BYTES = HEADER_BYTES + 256 * 1024;
/** In place of a buffer: this end closes (where ports have no `close` event). */
const GOODBYE = "close";

class PortWire implements Wire {
  readonly maxMessageBytes = MAX_MESSAGE_BYTES;
  readonly highWaterBytes = HIGH_WATER_BYTES;
  onClose: Wire["onClose"];
  private isClosed = false;
  private sentBytes = 0;
  /** Of what was sent, as the other end tells. */
  private takenBytes = 0;
  private receivedBytes = 0;
  private toldBytes = 0;
  private readonly waiters = new Waiters();
  private readonly inbox = new Inbox();

  constructor(
    readonly kind: LinkKind,
    private readonly port: MessagePort,
  ) {
    port.addEventListener("message", this.onPortMessage);
    port.addEventListener("messageerror", this.onPortError);
    // Node, and browsers that have the event (Chromium 156 does not: there, silence alone tells of a crash).
    port.addEventListener("close", this.onPortClose);
    port.start();
  }

  get bufferedBytes(): number {
    return this.sentBytes - this.takenBytes;
  }

  get onMessage(): Wire["onMessage"] {
    return this.inbox.listener;
  }

  set onMessage(handler: Wire["onMessage"]) {
    this.inbox.listener = handler;
  }

  send(message: Uint8Array<ArrayBuffer>): void {
    if (this.isClosed) throw closedError("send");
    checkLength(message, this.maxMessageBytes);
    this.sentBytes += message.byteLength;
    const whole = message.byteLength === message.buffer.byteLength ? message : message.slice();
    this.port.postMessage(whole.buffer, [whole.buffer]);
  }

  drained(): Promise<void> {
    if (this.isClosed) return Promise.reject(closedError("drained"));
    return this.bufferedBytes <= LOW_WATER_BYTES ? Promise.resolve() : this.waiters.wait();
  }

  close(): void {
    if (this.isClosed) return;
    this.port.postMessage(GOODBYE);
    this.shut();
  }

  private readonly onPortMessage = ({ data }: MessageEvent<unknown>) => {
    if (this.isClosed) return;
    if (data instanceof ArrayBuffer) {
      this.receivedBytes += data.byteLength;
      if (!this.inbox.take(new Uint8Array(data))) {
        this.fail("more came than anyone listened to");
        return;
      }
      if (this.receivedBytes - this.toldBytes < TELL_BYTES || this.isClosed) return;
      this.toldBytes = this.receivedBytes;
      this.port.postMessage(this.toldBytes);
    } else if (data === GOODBYE) this.fail("the other end closed the port");
    else if (typeof data === "number" && data >= this.takenBytes && data <= this.sentBytes) {
      this.takenBytes = data;
      if (this.bufferedBytes <= LOW_WATER_BYTES) this.waiters.release();
    } else this.fail("the other end sent what is no message of a wire");
  };

  private readonly onPortError = () => this.fail("a message could not be read");
  private readonly onPortClose = () => this.fail("the port has closed");

  private shut(): void {
    this.isClosed = true;
    this.port.removeEventListener("message", this.onPortMessage);
    this.port.removeEventListener("messageerror", this.onPortError);
    this.port.removeEventListener("close", this.onPortClose);
    this.port.close();
    this.waiters.fail();
  }

  private fail(reason: string): void {
    if (this.isClosed) return;
    this.shut();
    this.onClose?.(reason);
  }
}

/** A wire over a port, which is the wire's own from then on. @param kind What the port leads to. */
export const createPortWire = (port: MessagePort, kind: LinkKind): Wire => new PortWire(kind, port);
