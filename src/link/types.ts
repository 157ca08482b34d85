/**
 * What the rest of Ringwise knows of a link: control messages and parcels between two peers, whole, once and in order, over
 * whatever carries bytes. A link knows nothing of attention, tensors or the GPU.
 */

/** What carries the bytes: memory of one page, a worker's port, a port between tabs, WebRTC data channels. */
export type LinkKind = "memory" | "worker" | "tab" | "webrtc";

/**
 * A two-way pipe of messages to one peer: reliable, in order, its messages whole. The one thing that differs between kinds
 * of links. A link may use several wires (WebRTC "lanes").
 */
export interface Wire {
  readonly kind: LinkKind;
  /** Longest message that {@link send} takes, in bytes. */
  readonly maxMessageBytes: number;
  /** Bytes that were given to {@link send} and have not left yet; 0 where the platform does not tell. */
  readonly bufferedBytes: number;
  /** With this much buffered, no more chunks are sent until {@link drained}. Default: 1 MiB, 256 KiB with several wires. */
  readonly highWaterBytes?: number;
  /** The message is the wire's from now on (it may move its buffer). @throws {LinkError} where the wire is closed. */
  send(message: Uint8Array<ArrayBuffer>): void;
  /** Resolves when so little is buffered that more may be sent (at once, where nothing is). Rejects when the wire closes. */
  drained(): Promise<void>;
  onMessage: ((message: Uint8Array<ArrayBuffer>) => void) | undefined;
  /** Called once, when either end has closed or the platform says that the other end is gone. */
  onClose: ((reason: string) => void) | undefined;
  /** Closes both ends. Idempotent. */
  close(): void;
}

/** What a parcel holds: a K/V block, queries on their way around, their state, a decode query or answer, a piece of a model. */
export type ParcelKind = "block" | "query" | "state" | "ask" | "answer" | "page" | "ids" | "weights";

/**
 * Which parcel it is. Both ends derive it from what they do (never from each other's word), so a parcel that nobody waits
 * for is never taken into memory.
 */
export interface ParcelKey {
  /** Parcels of an earlier epoch than the link's are dropped and counted. 0 for what belongs to none (weights). */
  epoch: number;
  /** Operation within the epoch (a chunk of prefill, a token of decode). */
  op: number;
  layer: number;
  kind: ParcelKind;
  /** The rank whose block, query or answer it is; for weights, which piece. */
  rank: number;
}

/** A parcel that has come, whole and with the right hash. */
export interface Parcel {
  key: ParcelKey;
  bytes: Uint8Array<ArrayBuffer>;
  /** `performance.now()` when its first frame came, and its last. */
  startMs: number;
  endMs: number;
}

/** What a link has counted since it was made. */
export interface LinkCounters {
  sentBytes: number;
  receivedBytes: number;
  sentParcels: number;
  receivedParcels: number;
  /** Frames dropped: of an earlier epoch; there already; not awaited, or outside of the parcel's range; broken. */
  stale: number;
  duplicate: number;
  unexpected: number;
  corrupt: number;
  /** Parcels asked for again, after a wrong hash, a gap or a stall. */
  resent: number;
}

/** Messages of the control channel: plain JSON objects with a type. Their meaning is the peers' business. */
export interface ControlMessage {
  type: string;
  [field: string]: unknown;
}

/**
 * One peer's end of a link. Survives the loss of its wires: what was not acknowledged goes out again over the next ones.
 * Heartbeats go out every 200 ms by themselves.
 */
export interface Link {
  /** The other end. */
  readonly peerId: string;
  /** Of the wires it has now (or had last). */
  readonly kind: LinkKind;
  readonly counters: Readonly<LinkCounters>;
  /** Of parcels received, smoothed; undefined before the first of at least 64 KiB. */
  readonly bytesPerSecond: number | undefined;
  /** Round trip of the heartbeats, smoothed. */
  readonly roundTripMs: number | undefined;
  /** `performance.now()` when anything at all was last heard. */
  readonly lastHeardMs: number;
  readonly isClosed: boolean;

  /** Sends over these wires from now on; those before are closed. */
  attach(wires: readonly Wire[]): void;

  /** From now on parcels of earlier epochs are stale: those awaited or being sent reject with LinkError "epoch". */
  setEpoch(epoch: number): void;

  /** In order, each once. @throws {LinkError} where the message is longer than 1 MiB as JSON, or the link is closed. */
  sendControl(message: ControlMessage): void;
  /** Any JSON object with a string `type`; nothing else of it has been checked. */
  onControl: ((message: ControlMessage) => void) | undefined;

  /**
   * Sends a parcel; the parts are one after the other its bytes, and may be still on their way (from the GPU). Up to 64 KiB
   * goes at once; more waits until the other end has posted {@link receive}. Resolves when the other end has it, whole.
   * @throws signal.reason
   * @throws {LinkError} when the link closes or the epoch ends.
   */
  send(
    key: ParcelKey,
    parts: readonly (Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>)[],
    byteLength: number,
    signal: AbortSignal,
  ): Promise<void>;

  /**
   * Awaits a parcel. Memory is taken when its first frame comes, never more than `maxBytes`; posting it early is what lets
   * a parcel travel while the GPU computes.
   * @throws signal.reason
   * @throws {LinkError} when the link closes or the epoch ends, or after the other end has sent more than `maxBytes`.
   */
  receive(key: ParcelKey, maxBytes: number, signal: AbortSignal): Promise<Parcel>;

  /** Called when the other end breaks the protocol (lengths, types, rates), with a sentence that says how. The link is closed. */
  onViolation: ((reason: string) => void) | undefined;
  /** Called once when the link closes, for whatever reason. */
  onClose: ((reason: string) => void) | undefined;
  /** Tells the other end (where it can) and closes the wires. Idempotent. */
  close(reason: string): void;
}
