/** Who holds how many bytes on the GPU: every buffer Ringwise makes is entered here, by rank. */

/** Bytes on the GPU now and at most so far. */
export interface MemoryUse {
  bytes: number;
  peakBytes: number;
}

/** Owner of buffers that belong to no rank in particular (weights, activations, uniforms). */
export const SHARED = "shared";

/** Counts the bytes of GPU buffers per owner: a rank's number, or "shared". */
export class MemoryLedger {
  private readonly owners = new Map<number | string, MemoryUse>();
  private readonly whole: MemoryUse = { bytes: 0, peakBytes: 0 };

  /** Bytes of all owners together; the peak is the peak of the sum. */
  get total(): Readonly<MemoryUse> {
    return { ...this.whole };
  }

  /** Use by one owner; zeros for one never seen. */
  of(owner: number | string): Readonly<MemoryUse> {
    return { ...(this.owners.get(owner) ?? { bytes: 0, peakBytes: 0 }) };
  }

  /** Every owner with its use, ranks first in order. */
  entries(): [owner: number | string, use: Readonly<MemoryUse>][] {
    return [...this.owners].map(([owner, use]): [number | string, MemoryUse] => [owner, { ...use }]);
  }

  /** Starts the peaks anew from what is held now. */
  resetPeaks(): void {
    for (const use of [this.whole, ...this.owners.values()]) use.peakBytes = use.bytes;
  }

  /** Enters bytes taken (positive) or given back (negative). */
  add(owner: number | string, byteLength: number): void {
    let use = this.owners.get(owner);
    if (!use) this.owners.set(owner, (use = { bytes: 0, peakBytes: 0 }));
    for (const entry of [use, this.whole]) {
      entry.bytes += byteLength;
      entry.peakBytes = Math.max(entry.peakBytes, entry.bytes);
    }
  }
}

const ledgers = new WeakMap<GPUDevice, MemoryLedger>();

/** The ledger of a device: one for its whole life. */
export function ledgerOf(device: GPUDevice): MemoryLedger {
  let ledger = ledgers.get(device);
  if (!ledger) ledgers.set(device, (ledger = new MemoryLedger()));
  return ledger;
}
