/**
 * Parcels on their way out.
 *
 * waiting: for the other end's credit and the first bytes; streaming: chunks go out as the wires have room; sent: all went
 * out, each lane was told so, and the other end acknowledges or says what is missing (another round). Small parcels
 * go through the ordered channel at once, and wait for a credit only where the other end had no room.
 */
import { LinkError, OptionError } from "../errors.ts";
import { digestParcel } from "./digest.ts";
import { EAGER_BYTES, FRAME, type Frame, GRANULE_BYTES, HEADER_BYTES, LONGEST_PARCEL_BYTES } from "./frame.ts";
import { epochError, type LinkCore, onAbort } from "./link-core.ts";
import { checkKey, isStale, keyText } from "./parcel-key.ts";
import { PartList } from "./part-list.ts";
import type { ParcelKey } from "./types.ts";

/** Large parcels on their way at a time. */
const MAX_IN_FLIGHT = 2;
/** Bytes in the ordered channel beyond which small parcels wait at home, so that messages get by. */
const MAX_ORDERED_BYTES = 2 * 1024 * 1024;
/** Credits that the other end may have given without being sent anything. */
const MAX_CREDITS = 4096;
/** An end that was lost is told again after this long. */
const END_AGAIN_MS = 400;

interface Credit {
  key: ParcelKey;
  post: number;
  maxBytes: number;
}

interface Transfer {
  number: number;
  key: ParcelKey;
  text: string;
  parts: PartList;
  state: "waiting" | "eager" | "streaming" | "sent";
  /** A small one for which there was no room: it waits for a credit. */
  isRefused: boolean;
  /** While streaming or sent. */
  post: number;
  /** What goes out in this round: `[begin, end)`, ascending. */
  todo: { begin: number; end: number }[];
  round: number;
  endMs: number;
  digests: Promise<Uint8Array<ArrayBuffer>> | undefined;
  settle(error?: unknown): void;
}

/** See the module's comment. */
export class Outgoing {
  private nextNumber = 1;
  private readonly transfers = new Map<string, Transfer>();
  private readonly credits = new Map<string, Credit>();
  private isAwaitingRoom = false;
  private isPumping = false;

  constructor(private readonly core: LinkCore) {}

  /** See `Link.send`. */
  send(
    key: ParcelKey,
    parts: readonly (Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>)[],
    byteLength: number,
    signal: AbortSignal,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      checkKey("send", key);
      if (!Number.isInteger(byteLength) || byteLength < 0 || byteLength > LONGEST_PARCEL_BYTES)
        throw new OptionError(`send: expected a byteLength of 0..${LONGEST_PARCEL_BYTES}, got ${byteLength}`);
      signal.throwIfAborted();
      const text = keyText(key);
      if (isStale(key, this.core.epoch)) throw epochError("send", text, this.core.epoch);
      if (this.transfers.has(text)) throw new OptionError(`send: ${text} is being sent already`);
      const transfer: Transfer = {
        number: this.nextNumber++,
        key: { ...key },
        text,
        parts: new PartList(parts, byteLength, () => this.pump()),
        state: "waiting",
        isRefused: false,
        post: 0,
        todo: [],
        round: 0,
        endMs: 0,
        digests: undefined,
        settle: (error) => {
          stopListening();
          this.transfers.delete(text);
          if (error === undefined) resolve();
          else reject(error);
        },
      };
      const stopListening = onAbort(signal, () => this.giveUp(transfer, signal.reason));
      this.transfers.set(text, transfer);
      transfer.parts.whole.catch((error) => this.giveUp(transfer, error));
      this.pump();
    });
  }

  /** The other end awaits a parcel. */
  onCredit(frame: Frame): void {
    const key = frame.key!;
    if (isStale(key, this.core.epoch)) {
      this.core.counters.stale++;
      return;
    }
    this.credits.set(keyText(key), { key, post: frame.post, maxBytes: frame.totalBytes });
    if (this.credits.size > MAX_CREDITS) this.core.violation(`awaits more than ${MAX_CREDITS} parcels at a time`);
    else this.pump();
  }

  /** The other end no longer awaits it: what was begun waits for another credit. */
  onCancel(frame: Frame): void {
    const text = keyText(frame.key!);
    if (this.credits.get(text)?.post === frame.post) this.credits.delete(text);
    const transfer = this.transfers.get(text);
    if (transfer && isBegun(transfer) && transfer.post === frame.post) {
      transfer.state = "waiting";
      this.pump();
    }
  }

  onAck(frame: Frame): void {
    const text = keyText(frame.key!);
    if (frame.post !== 0 && this.credits.get(text)?.post === frame.post) this.credits.delete(text);
    const transfer = this.transfers.get(text);
    // One that was given up meanwhile has come nevertheless: nothing is left to do.
    if (transfer?.number !== frame.transfer) return;
    if (transfer.state === "waiting") {
      this.core.violation(`acknowledged ${text}, of which nothing was sent`);
      return;
    }
    this.core.counters.sentParcels++;
    transfer.settle();
    this.pump();
  }

  /** The other end says what is missing after a round. */
  onNack(frame: Frame): void {
    const transfer = this.transfers.get(keyText(frame.key!));
    if (transfer?.number !== frame.transfer || transfer.post !== frame.post) return;
    if (transfer.state !== "sent" || transfer.round !== frame.offset) return;
    const view = new DataView(frame.payload.buffer, frame.payload.byteOffset, frame.payload.byteLength);
    const todo: Transfer["todo"] = [];
    let before = 0;
    for (let at = 0; at < frame.payload.byteLength; at += 8) {
      const begin = view.getUint32(at, true);
      const end = begin + view.getUint32(at + 4, true);
      const isRange = begin >= before && end > begin && end <= transfer.parts.byteLength && begin % GRANULE_BYTES === 0;
      if (!isRange || (end % GRANULE_BYTES !== 0 && end !== transfer.parts.byteLength)) {
        this.core.violation(
          `asked for bytes ${begin}..${end} of ${transfer.text} again, expected ascending ranges in it`,
        );
        return;
      }
      todo.push({ begin, end });
      before = end;
    }
    this.core.counters.resent++;
    transfer.todo = todo;
    transfer.state = "streaming";
    this.pump();
  }

  /** An eager parcel was not taken. */
  onRefused(frame: Frame): void {
    const transfer = this.transfers.get(keyText(frame.key!));
    if (transfer?.number !== frame.transfer || transfer.state !== "eager") return;
    if (frame.code === 1) {
      transfer.settle(new LinkError(`send: at the other end, the epoch of ${transfer.text} is over`, "epoch"));
      return;
    }
    transfer.state = "waiting";
    transfer.isRefused = true;
    this.pump();
  }

  /** The other end has taken what was sent in order: more may follow. */
  onOrderedRoom(): void {
    this.pump();
  }

  /** Wires were replaced or lost: what may have been under way with them is told to have ended, so that it is asked for. */
  onWires(): void {
    for (const transfer of this.transfers.values()) if (transfer.state === "sent") this.endRound(transfer);
    this.pump();
  }

  /** Now and then: ends that were lost. */
  tick(): void {
    const now = this.core.now();
    for (const transfer of this.transfers.values())
      if (transfer.state === "sent" && now - transfer.endMs >= END_AGAIN_MS) this.tellEnd(transfer);
  }

  setEpoch(epoch: number): void {
    for (const [text, credit] of this.credits) if (isStale(credit.key, epoch)) this.credits.delete(text);
    for (const transfer of [...this.transfers.values()])
      if (isStale(transfer.key, epoch)) this.giveUp(transfer, epochError("send", transfer.text, epoch));
  }

  close(error: LinkError): void {
    this.credits.clear();
    for (const transfer of [...this.transfers.values()]) transfer.settle(error);
  }

  private sendEagerly(transfer: Transfer): void {
    transfer.state = "eager";
    const payload = new Uint8Array(transfer.parts.byteLength);
    transfer.parts.copy(0, payload);
    this.core.counters.sentBytes += payload.byteLength;
    this.core.ordered.push({
      type: FRAME.eager,
      key: transfer.key,
      transfer: transfer.number,
      totalBytes: payload.byteLength,
      payload,
    });
  }

  /** Ends a transfer from this side, and tells the other where it knows of it. */
  private giveUp(transfer: Transfer, reason: unknown): void {
    if (this.transfers.get(transfer.text) !== transfer) return;
    if (transfer.state !== "waiting")
      this.core.ordered.push({ type: FRAME.abort, key: transfer.key, transfer: transfer.number, post: transfer.post });
    transfer.settle(reason);
    this.pump();
  }

  /** Begins what may begin, and sends chunks while the wires have room. */
  private pump(): void {
    if (this.isPumping || this.core.isClosed) return;
    this.isPumping = true;
    try {
      this.begin();
      for (;;) {
        const transfer = this.sendable();
        if (!transfer) return;
        const wire = this.core.lanes.roomiest();
        if (!wire) {
          this.awaitRoom();
          return;
        }
        this.sendChunk(transfer, this.core.lanes.chunkBytes(wire), wire);
        if (transfer.todo.length === 0) this.endRound(transfer);
      }
    } finally {
      this.isPumping = false;
    }
  }

  private begin(): void {
    let inFlight = 0;
    for (const transfer of this.transfers.values()) if (isBegun(transfer)) inFlight++;
    for (const transfer of this.transfers.values()) {
      if (transfer.state !== "waiting") continue;
      const { byteLength, available } = transfer.parts;
      const credit = this.credits.get(transfer.text);
      if (!credit && (byteLength > EAGER_BYTES || transfer.isRefused)) continue;
      if (credit && byteLength > credit.maxBytes) {
        const message = `send: ${transfer.text} has ${byteLength} bytes, the other end awaits at most ${credit.maxBytes}`;
        transfer.settle(new LinkError(message, "violation"));
      } else if (byteLength <= EAGER_BYTES) {
        if (available === byteLength && this.core.ordered.heldBytes < MAX_ORDERED_BYTES) this.sendEagerly(transfer);
      } else if (credit && inFlight < MAX_IN_FLIGHT && available > 0) {
        transfer.state = "streaming";
        transfer.post = credit.post;
        transfer.todo = [{ begin: 0, end: byteLength }];
        transfer.round++;
        this.sendTrailer(transfer);
        inFlight++;
      }
    }
  }

  /** Hashes the parcel and sends the hashes, if it is still wanted then. */
  private sendTrailer(transfer: Transfer): void {
    const { parts, post } = transfer;
    transfer.digests ??= parts.whole.then(() => digestParcel(parts.byteLength, (begin, end) => parts.read(begin, end)));
    transfer.digests.then(
      (payload) => {
        if (this.transfers.get(transfer.text) !== transfer || !isBegun(transfer) || transfer.post !== post) return;
        this.core.ordered.push({
          type: FRAME.trailer,
          key: transfer.key,
          transfer: transfer.number,
          post,
          totalBytes: parts.byteLength,
          payload,
        });
      },
      (error) => this.giveUp(transfer, error),
    );
  }

  /** The oldest transfer of which something can go out. */
  private sendable(): Transfer | undefined {
    for (const transfer of this.transfers.values()) {
      const next = transfer.state === "streaming" ? transfer.todo[0] : undefined;
      // Chunks are whole granules, but for the last.
      if (next && transfer.parts.available >= Math.min(next.end, next.begin + GRANULE_BYTES)) return transfer;
    }
    return undefined;
  }

  private sendChunk(transfer: Transfer, mostBytes: number, wire: Parameters<LinkCore["transmitInPlace"]>[2]): void {
    const { parts } = transfer;
    const range = transfer.todo[0]!;
    const { begin } = range;
    let end = Math.min(range.end, begin + mostBytes, parts.available);
    if (end !== range.end) end -= (end - begin) % GRANULE_BYTES;
    const message = new Uint8Array(HEADER_BYTES + end - begin);
    parts.copy(begin, message.subarray(HEADER_BYTES));
    range.begin = end;
    if (range.begin === range.end) transfer.todo.shift();
    this.core.counters.sentBytes += end - begin;
    const { key, number, post } = transfer;
    const fields = { type: FRAME.chunk, key, transfer: number, post, offset: begin, totalBytes: parts.byteLength };
    this.core.transmitInPlace(message, fields, wire);
  }

  /** All of this round went out (or was lost). */
  private endRound(transfer: Transfer): void {
    transfer.state = "sent";
    transfer.round++;
    this.tellEnd(transfer);
  }

  private tellEnd(transfer: Transfer): void {
    transfer.endMs = this.core.now();
    const { wires } = this.core.lanes;
    const { key, number, post, round } = transfer;
    wires.forEach((wire, lane) => {
      const totalBytes = wires.length;
      this.core.transmit({ type: FRAME.end, code: lane, key, transfer: number, post, offset: round, totalBytes }, wire);
    });
  }

  private awaitRoom(): void {
    if (this.isAwaitingRoom || this.core.lanes.wires.length === 0) return;
    this.isAwaitingRoom = true;
    this.core.lanes.room().then(() => {
      this.isAwaitingRoom = false;
      this.pump();
    });
  }
}

const isBegun = (transfer: Transfer) => transfer.state === "streaming" || transfer.state === "sent";
