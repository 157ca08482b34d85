/** The wires that a link has now. Small frames go over lane 0, chunks over whichever has least waiting. */
import { LinkError } from "../errors.ts";
import { GRANULE_BYTES, HEADER_BYTES, MAX_MESSAGE_BYTES, MIN_MESSAGE_BYTES } from "./frame.ts";
import type { Wire } from "./types.ts";

/** Bytes that may wait in a wire, where it does not say itself: alone, and as one of several. */
const HIGH_WATER_BYTES = 1024 * 1024;
const LANE_HIGH_WATER_BYTES = 256 * 1024;
/** Most wires of a link (the round's ends are counted in 32 bits). */
const MAX_LANES = 32;

/** What {@link Lanes} tells. */
export interface LanesEvents {
  onMessage(message: Uint8Array<ArrayBuffer>): void;
  /** A wire went by itself; it is no longer among the lanes. */
  onLost(reason: string): void;
}

/** See the module's comment. */
export class Lanes {
  wires: readonly Wire[] = [];

  constructor(private readonly events: LanesEvents) {}

  /** @throws {LinkError} where there are too many, or one takes too short messages. */
  replace(wires: readonly Wire[]): void {
    if (wires.length > MAX_LANES)
      throw new LinkError(`attach: expected at most ${MAX_LANES} wires, got ${wires.length}`, "closed");
    for (const wire of wires)
      if (wire.maxMessageBytes < MIN_MESSAGE_BYTES)
        throw new LinkError(
          `attach: expected wires that take ${MIN_MESSAGE_BYTES} bytes, got one of ${wire.maxMessageBytes}`,
          "closed",
        );
    const before = this.wires;
    this.wires = [...wires];
    for (const wire of before) if (!wires.includes(wire)) this.silence(wire).close();
    for (const wire of wires) {
      wire.onClose = (reason) => this.lose(wire, reason);
      wire.onMessage = (message) => this.events.onMessage(message);
    }
  }

  /** Sends over a wire; a wire that cannot is lost. */
  send(wire: Wire, message: Uint8Array<ArrayBuffer>): void {
    try {
      wire.send(message);
    } catch (error) {
      this.lose(wire, String((error as Error).message));
    }
  }

  /** Bytes of a chunk over this wire. */
  chunkBytes(wire: Wire): number {
    const room = Math.min(wire.maxMessageBytes, MAX_MESSAGE_BYTES) - HEADER_BYTES;
    return Math.floor(room / GRANULE_BYTES) * GRANULE_BYTES;
  }

  /** The wire with least waiting; undefined where all are full. */
  roomiest(): Wire | undefined {
    let best: Wire | undefined;
    for (const wire of this.wires) {
      const most = wire.highWaterBytes ?? (this.wires.length > 1 ? LANE_HIGH_WATER_BYTES : HIGH_WATER_BYTES);
      if (wire.bufferedBytes < most && (!best || wire.bufferedBytes < best.bufferedBytes)) best = wire;
    }
    return best;
  }

  /** Resolves when a wire has room again, or has gone. */
  async room(): Promise<void> {
    await Promise.race(this.wires.map((wire) => wire.drained().catch(() => {})));
  }

  private silence(wire: Wire): Wire {
    wire.onMessage = undefined;
    wire.onClose = undefined;
    return wire;
  }

  private lose(wire: Wire, reason: string): void {
    if (!this.wires.includes(wire)) return;
    this.wires = this.wires.filter((other) => other !== wire);
    this.silence(wire).close();
    this.events.onLost(reason);
  }
}
