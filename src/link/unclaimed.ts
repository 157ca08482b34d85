/** Small parcels that came before anyone asked for them. Bounded: what does not fit is sent again when it is asked for. */
import { isStale, keyText } from "./parcel-key.ts";
import type { Parcel } from "./types.ts";

/** One layer of decode ahead takes one parcel per neighbour in the tree; this is far more. */
const MAX_PARCELS = 64;
const MAX_BYTES = 2 * 1024 * 1024;

/** See the module's comment. */
export class Unclaimed {
  heldBytes = 0;
  private readonly parcels = new Map<string, { parcel: Parcel; transfer: number }>();

  has(text: string): boolean {
    return this.parcels.has(text);
  }

  /** @returns false where there is no room. */
  put(parcel: Parcel, transfer: number): boolean {
    if (this.parcels.size >= MAX_PARCELS || this.heldBytes + parcel.bytes.byteLength > MAX_BYTES) return false;
    this.parcels.set(keyText(parcel.key), { parcel, transfer });
    this.heldBytes += parcel.bytes.byteLength;
    return true;
  }

  take(text: string): Parcel | undefined {
    const entry = this.parcels.get(text);
    if (entry) this.delete(text);
    return entry?.parcel;
  }

  /** The sender gave it up. */
  abort(text: string, transfer: number): void {
    if (this.parcels.get(text)?.transfer === transfer) this.delete(text);
  }

  /** @returns how many were of an epoch that is over. */
  dropStale(epoch: number): number {
    const stale = [...this.parcels].filter(([, { parcel }]) => isStale(parcel.key, epoch));
    for (const [text] of stale) this.delete(text);
    return stale.length;
  }

  clear(): void {
    this.parcels.clear();
    this.heldBytes = 0;
  }

  private delete(text: string): void {
    this.heldBytes -= this.parcels.get(text)!.parcel.bytes.byteLength;
    this.parcels.delete(text);
  }
}
