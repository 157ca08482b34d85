/**
 * A link between two peers: control messages and parcels over wires that may come and go. This file joins the parts: lanes
 * (the wires), the ordered channel, control messages, parcels out and in, and the heartbeat.
 */
import { LinkError } from "../errors.ts";
import { ControlAssembly, controlFrames } from "./control.ts";
import {
  decodeFrame,
  encodeFrame,
  FRAME,
  type Frame,
  FrameError,
  type FrameFields,
  isOrdered,
  MAX_REASON_BYTES,
  writeHeader,
} from "./frame.ts";
import { Heartbeat } from "./heartbeat.ts";
import { Incoming } from "./incoming.ts";
import { JunkMeter } from "./junk-meter.ts";
import { Lanes } from "./lanes.ts";
import type { LinkCore } from "./link-core.ts";
import { OrderedChannel } from "./ordered.ts";
import { Outgoing } from "./outgoing.ts";
import type { ControlMessage, Link, LinkCounters, LinkKind, Parcel, ParcelKey, Wire } from "./types.ts";

/** Weight of the latest measurement. */
const SMOOTHING = 0.3;
/** Parcels below this say nothing of the bandwidth. */
const MEASURABLE_BYTES = 64 * 1024;

/** How a link is made. */
export interface CreateLinkOptions {
  /** This peer, as error messages name it. */
  selfId: string;
  /** The other end. */
  peerId: string;
  /** First wires; without any, the link waits for {@link Link.attach}. */
  wires?: readonly Wire[];
  /** Number of this link's life, 1..2^32-1, another for every link made. Default: random. */
  session?: number;
  /** The clock. Default: `performance.now()` and timers of the platform. */
  clock?: LinkClock;
}

/** A clock, for tests to replace. */
export interface LinkClock {
  /** Milliseconds, from any beginning. */
  now(): number;
  /** Calls once. @returns what takes it back */
  after(milliseconds: number, then: () => void): () => void;
  /** Calls again and again. @returns what ends it */
  every(milliseconds: number, then: () => void): () => void;
}

/** The platform's clock. */
export const platformClock: LinkClock = {
  now: () => performance.now(),
  after(milliseconds, then) {
    const timer = setTimeout(then, milliseconds);
    return () => clearTimeout(timer);
  },
  every(milliseconds, then) {
    const timer = setInterval(then, milliseconds);
    return () => clearInterval(timer);
  },
};

/** What {@link createLink} makes: a link that also tells of its wires, and what it holds. */
export interface OwnLink extends Link {
  /** Host memory held: parcels arriving or unclaimed, control messages, frames not acknowledged. */
  readonly heldBytes: number;
  /** Whether there is a wire now. Without one, everything waits for `attach`. */
  readonly hasWires: boolean;
  /** Called when the last wire has gone by itself (the other end's port closed, its channel failed); the link stays open. */
  onWiresLost: ((reason: string) => void) | undefined;
}

/**
 * Makes one end of a link. Set `onControl` before anything else is awaited: messages that come while it is unset are lost.
 * @throws {LinkError} where a wire cannot carry frames.
 */
export function createLink(options: CreateLinkOptions): OwnLink {
  const link = new RingwiseLink(options);
  if (options.wires) link.attach(options.wires);
  return link;
}

const randomSession = () => crypto.getRandomValues(new Uint32Array(1))[0]! || 1;

class RingwiseLink implements OwnLink, LinkCore {
  readonly peerId: string;
  readonly counters: LinkCounters = {
    sentBytes: 0,
    receivedBytes: 0,
    sentParcels: 0,
    receivedParcels: 0,
    stale: 0,
    duplicate: 0,
    unexpected: 0,
    corrupt: 0,
    resent: 0,
  };
  readonly lanes: Lanes;
  readonly ordered: OrderedChannel;
  kind: LinkKind = "memory";
  epoch = 0;
  isClosed = false;
  bytesPerSecond: number | undefined;
  lastHeardMs: number;
  onControl: Link["onControl"];
  onViolation: Link["onViolation"];
  onClose: Link["onClose"];
  onWiresLost: OwnLink["onWiresLost"];

  private readonly selfId: string;
  private readonly session: number;
  /** The other end's; 0 before it is known. */
  private peerSession = 0;
  private readonly clock: LinkClock;
  private readonly control = new ControlAssembly();
  private readonly outgoing = new Outgoing(this);
  private readonly incoming = new Incoming(this);
  private readonly heartbeat: Heartbeat;
  private readonly junk: JunkMeter;
  private readonly stopTicking: () => void;

  constructor({ selfId, peerId, session = randomSession(), clock = platformClock }: CreateLinkOptions) {
    this.selfId = selfId;
    this.peerId = peerId;
    this.session = session;
    this.clock = clock;
    this.lastHeardMs = clock.now();
    this.junk = new JunkMeter(this.counters, clock);
    this.lanes = new Lanes({
      onMessage: (message) => this.onMessage(message),
      onLost: (reason) => this.onLaneLost(reason),
    });
    const link = this;
    this.ordered = new OrderedChannel({
      get hasWires() {
        return link.hasWires;
      },
      transmit: (fields, sequence) => this.transmitOver(this.lanes.wires[0], fields, sequence),
      after: (milliseconds, then) => this.clock.after(milliseconds, then),
      violation: (reason) => this.violation(reason),
      overflow: () => this.end("the other end takes nothing any more", "closed", true),
      onRoom: () => this.outgoing.onOrderedRoom(),
      countDuplicate: () => {
        this.counters.duplicate++;
      },
    });
    this.heartbeat = new Heartbeat({
      now: () => this.now(),
      transmit: (fields) =>
        this.transmitOver(this.lanes.wires[0], fields, fields.type === FRAME.heartbeat ? this.ordered.sentTail : 0),
    });
    this.stopTicking = clock.every(Heartbeat.INTERVAL_MS, () => this.tick());
  }

  get hasWires(): boolean {
    return this.lanes.wires.length > 0;
  }

  get roundTripMs(): number | undefined {
    return this.heartbeat.roundTripMs;
  }

  get heldBytes(): number {
    return (
      this.ordered.heldBytes + this.control.heldBytes + this.incoming.heldBytes + this.incoming.unclaimed.heldBytes
    );
  }

  attach(wires: readonly Wire[]): void {
    if (this.isClosed) {
      for (const wire of wires) wire.close();
      return;
    }
    this.lanes.replace(wires);
    if (wires[0]) this.kind = wires[0].kind;
    this.heartbeat.beat();
    this.ordered.rewind();
    this.outgoing.onWires();
  }

  setEpoch(epoch: number): void {
    if (this.isClosed || epoch <= this.epoch) return;
    this.epoch = epoch;
    this.outgoing.setEpoch(epoch);
    this.incoming.setEpoch(epoch);
  }

  sendControl(message: ControlMessage): void {
    this.mustBeOpen("sendControl");
    for (const frame of controlFrames(message)) this.ordered.push(frame);
  }

  async send(
    key: ParcelKey,
    parts: readonly (Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>)[],
    byteLength: number,
    signal: AbortSignal,
  ): Promise<void> {
    this.mustBeOpen("send");
    await this.outgoing.send(key, parts, byteLength, signal);
  }

  async receive(key: ParcelKey, maxBytes: number, signal: AbortSignal): Promise<Parcel> {
    this.mustBeOpen("receive");
    return this.incoming.receive(key, maxBytes, signal);
  }

  close(reason: string): void {
    this.end(reason, "closed", true);
  }

  now(): number {
    return this.clock.now();
  }

  transmit(fields: FrameFields, wire = this.lanes.wires[0]): void {
    this.transmitOver(wire, fields, 0);
  }

  transmitInPlace(message: Uint8Array<ArrayBuffer>, fields: FrameFields, wire: Wire): void {
    if (this.isClosed) return;
    writeHeader(message, fields, this.envelope(0));
    this.lanes.send(wire, message);
  }

  violation(reason: string): void {
    if (this.isClosed) return;
    const sentence = `${this.peerId} ${reason}`;
    this.end(sentence, "violation", true);
    this.onViolation?.(sentence);
  }

  measured(bytes: number, milliseconds: number): void {
    if (bytes < MEASURABLE_BYTES || milliseconds <= 0) return;
    const latest = (bytes / milliseconds) * 1000;
    this.bytesPerSecond = this.bytesPerSecond
      ? this.bytesPerSecond + SMOOTHING * (latest - this.bytesPerSecond)
      : latest;
  }

  private mustBeOpen(name: string): void {
    if (this.isClosed)
      throw new LinkError(`${name}: the link between ${this.selfId} and ${this.peerId} is closed`, "closed");
  }

  private envelope(sequence: number) {
    const { session, peerSession: toSession } = this;
    return { session, toSession, sequence, acknowledged: this.ordered.expected };
  }

  private transmitOver(wire: Wire | undefined, fields: FrameFields, sequence: number): void {
    if (!wire || this.isClosed) return;
    if (wire === this.lanes.wires[0]) this.ordered.told();
    this.lanes.send(wire, encodeFrame(fields, this.envelope(sequence)));
  }

  private tick(): void {
    this.heartbeat.beat();
    this.outgoing.tick();
    this.incoming.tick(this.lastHeardMs);
  }

  private onLaneLost(reason: string): void {
    if (this.isClosed) return;
    this.ordered.rewind();
    this.outgoing.onWires();
    if (!this.hasWires) this.onWiresLost?.(reason);
  }

  private onMessage(message: Uint8Array<ArrayBuffer>): void {
    if (this.isClosed) return;
    let frame: Frame;
    try {
      frame = decodeFrame(message);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      if (!error.isDamage) {
        this.violation(error.message);
        return;
      }
      this.counters.corrupt++;
      this.checkJunk(error.message);
      return;
    }
    this.lastHeardMs = this.now();
    if (frame.toSession !== 0 && frame.toSession !== this.session) {
      // Meant for a link that was here before.
      this.counters.stale++;
    } else if (this.peerSession !== 0 && frame.session !== this.peerSession) {
      this.end(`${this.peerId} has started anew`, "closed", true);
      return;
    } else {
      this.peerSession = frame.session;
      this.take(frame);
    }
    if (!this.isClosed) this.checkJunk(`frames of type ${frame.type}`);
  }

  private checkJunk(latest: string): void {
    const reason = this.junk.excess();
    if (reason) this.violation(`${reason} (the last: ${latest})`);
  }

  private take(frame: Frame): void {
    this.ordered.acknowledged(frame.acknowledged);
    if (this.isClosed) return;
    if (isOrdered(frame.type)) {
      if (this.ordered.accept(frame)) this.takeOrdered(frame);
      return;
    }
    switch (frame.type) {
      case FRAME.chunk:
        this.incoming.onChunk(frame);
        return;
      case FRAME.end:
        this.incoming.onEnd(frame);
        return;
      case FRAME.heartbeat:
        this.ordered.onTail(frame.sequence);
        this.heartbeat.onBeat(frame);
        return;
      case FRAME.echo:
        this.heartbeat.onEcho(frame);
        return;
      case FRAME.received:
        if (frame.code === 1) this.ordered.rewind();
        return;
      case FRAME.goodbye:
        this.end(new TextDecoder().decode(frame.payload), "closed", false);
        return;
    }
  }

  private takeOrdered(frame: Frame): void {
    switch (frame.type) {
      case FRAME.control:
        this.takeControl(frame);
        return;
      case FRAME.credit:
        this.outgoing.onCredit(frame);
        return;
      case FRAME.cancel:
        this.outgoing.onCancel(frame);
        return;
      case FRAME.ack:
        this.outgoing.onAck(frame);
        return;
      case FRAME.nack:
        this.outgoing.onNack(frame);
        return;
      case FRAME.refused:
        this.outgoing.onRefused(frame);
        return;
      case FRAME.trailer:
        this.incoming.onTrailer(frame);
        return;
      case FRAME.eager:
        this.incoming.onEager(frame);
        return;
      case FRAME.abort:
        this.incoming.onAbort(frame);
        return;
    }
  }

  private takeControl(frame: Frame): void {
    let message: ControlMessage | undefined;
    try {
      message = this.control.add(frame);
    } catch (error) {
      this.violation((error as Error).message);
      return;
    }
    if (message) this.onControl?.(message);
  }

  private end(reason: string, why: LinkError["why"], isTold: boolean): void {
    if (this.isClosed) return;
    if (isTold) {
      const bytes = new TextEncoder().encode(reason);
      this.transmit({ type: FRAME.goodbye, payload: bytes.subarray(0, MAX_REASON_BYTES) });
    }
    if (this.isClosed) return;
    this.isClosed = true;
    this.stopTicking();
    this.ordered.clear();
    this.control.clear();
    const error = new LinkError(`link between ${this.selfId} and ${this.peerId} is closed: ${reason}`, why);
    this.outgoing.close(error);
    this.incoming.close(error);
    this.lanes.replace([]);
    this.onClose?.(reason);
  }
}
