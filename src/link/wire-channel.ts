/**
 * A wire over a WebRTC data channel (ordered and reliable), on the page, in a dedicated worker, or of node-datachannel.
 * Chromium throws where one message has more than 256 KiB or more than 16 MiB wait; 64 KiB messages with 1 MiB / 256 KiB
 * of high and low water were as fast as any.
 */
import { HEADER_BYTES } from "./frame.ts";
import type { Wire } from "./types.ts";
import { checkLength, closedError, Inbox, Waiters } from "./wire-queue.ts";

/** Bytes of a chunk over a data channel. */
const CHUNK_BYTES = 64 * 1024;
const HIGH_WATER_BYTES = 1024 * 1024;
const LOW_WATER_BYTES = 256 * 1024;
/** The same with several connections to one peer. */
const LANE_HIGH_WATER_BYTES = 256 * 1024;
const LANE_LOW_WATER_BYTES = 128 * 1024;
/** How long a channel outlives what was said over it last. */
const PARTING_MS = 300;
/** How often a channel is looked at that does not tell when it has drained. */
const POLL_MS = 50;

/** How a channel is used. */
export interface ChannelWireOptions {
  /** Of the connection's SCTP transport, where it is less than 64 KiB and a header. */
  maxMessageBytes?: number;
  /** How many wires its link has. Default 1. */
  lanes?: number;
}

class ChannelWire implements Wire {
  readonly kind = "webrtc";
  readonly maxMessageBytes: number;
  readonly highWaterBytes: number;
  onClose: Wire["onClose"];
  private readonly lowWaterBytes: number;
  private isClosed = false;
  /** Sent before the channel was open. */
  private early: Uint8Array<ArrayBuffer>[] = [];
  private earlyBytes = 0;
  private poll: ReturnType<typeof setTimeout> | undefined;
  private readonly waiters = new Waiters();
  private readonly inbox = new Inbox();

  constructor(
    private readonly channel: RTCDataChannel,
    { maxMessageBytes = HEADER_BYTES + CHUNK_BYTES, lanes = 1 }: ChannelWireOptions,
  ) {
    this.maxMessageBytes = Math.min(maxMessageBytes, HEADER_BYTES + CHUNK_BYTES);
    this.highWaterBytes = lanes > 1 ? LANE_HIGH_WATER_BYTES : HIGH_WATER_BYTES;
    this.lowWaterBytes = lanes > 1 ? LANE_LOW_WATER_BYTES : LOW_WATER_BYTES;
    channel.binaryType = "arraybuffer";
    channel.bufferedAmountLowThreshold = this.lowWaterBytes;
    channel.addEventListener("open", this.onOpen);
    channel.addEventListener("message", this.onChannelMessage);
    channel.addEventListener("bufferedamountlow", this.onLow);
    channel.addEventListener("close", this.onChannelClose);
    channel.addEventListener("error", this.onChannelError);
    if (channel.readyState === "closing" || channel.readyState === "closed")
      queueMicrotask(() => this.fail("the channel was closed already"));
  }

  get bufferedBytes(): number {
    return this.channel.bufferedAmount + this.earlyBytes;
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
    if (this.channel.readyState === "connecting") {
      this.early.push(message);
      this.earlyBytes += message.byteLength;
    } else this.channel.send(message);
  }

  drained(): Promise<void> {
    if (this.isClosed) return Promise.reject(closedError("drained"));
    if (this.bufferedBytes <= this.lowWaterBytes) return Promise.resolve();
    const waited = this.waiters.wait();
    this.look();
    return waited;
  }

  /** What was sent before still goes out; over a channel that is not open yet, when it is. */
  close(): void {
    if (this.isClosed) return;
    const { channel, early } = this;
    this.silence();
    if (channel.readyState !== "connecting" || early.length === 0) {
      this.part();
      return;
    }
    const last = () => {
      try {
        for (const message of early) channel.send(message);
      } finally {
        this.part();
      }
    };
    channel.addEventListener("open", last, { once: true });
  }

  /** The event is not told by a channel that drained between being asked and listened to. */
  private look(): void {
    this.poll ??= setTimeout(() => {
      this.poll = undefined;
      if (this.isClosed) return;
      if (this.bufferedBytes <= this.lowWaterBytes) this.waiters.release();
      else this.look();
    }, POLL_MS);
  }

  private readonly onOpen = () => {
    const { early } = this;
    this.early = [];
    this.earlyBytes = 0;
    try {
      for (const message of early) this.channel.send(message);
    } catch (error) {
      this.fail(String((error as Error).message));
    }
    this.onLow();
  };

  private readonly onLow = () => {
    if (this.bufferedBytes > this.lowWaterBytes) return;
    clearTimeout(this.poll);
    this.poll = undefined;
    this.waiters.release();
  };

  private readonly onChannelMessage = ({ data }: MessageEvent<unknown>) => {
    // Text is no frame either: what it is worth, the link decides.
    const message = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(0);
    if (!this.isClosed && !this.inbox.take(message)) this.fail("more came than anyone listened to");
  };

  private readonly onChannelClose = () => this.fail("the data channel has closed");
  private readonly onChannelError = (event: Event) => {
    const { error } = event as RTCErrorEvent;
    this.fail(`the data channel failed${error ? `: ${error.message}` : ""}`);
  };

  /** A busy other end (a Node peer that compiles) hears of the closing before it reads what came just ahead of it: it gets time. */
  private part(): void {
    setTimeout(() => this.channel.close(), PARTING_MS);
  }

  private silence(): void {
    this.isClosed = true;
    clearTimeout(this.poll);
    this.early = [];
    this.earlyBytes = 0;
    const { channel } = this;
    channel.removeEventListener("open", this.onOpen);
    channel.removeEventListener("message", this.onChannelMessage);
    channel.removeEventListener("bufferedamountlow", this.onLow);
    channel.removeEventListener("close", this.onChannelClose);
    channel.removeEventListener("error", this.onChannelError);
    this.waiters.fail();
  }

  private fail(reason: string): void {
    if (this.isClosed) return;
    this.silence();
    this.channel.close();
    this.onClose?.(reason);
  }
}

/** A wire over a data channel, open or about to be, which is the wire's own from then on. */
export const createChannelWire = (channel: RTCDataChannel, options: ChannelWireOptions = {}): Wire =>
  new ChannelWire(channel, options);
