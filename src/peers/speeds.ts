/** How fast every peer computes: what shares are sized by. Pure. */

/** How much a new sample counts. */
const SMOOTHING = 0.4;
/** Shorter samples say more about the clock and the queue than about the GPU. */
const MIN_SAMPLE_MS = 2;
/** Multiply-adds per second that no machine reaches. */
const MOST_SPEED = 1e18;
/** Nobody counts as more than so many times faster or slower than the middle one: figures come from peers, and may be wrong. */
const MOST_RATIO = 64;

/** Smoothed multiply-adds per second of every peer. Unmeasured ones count as the middle one of those that are. */
export class PeerSpeeds {
  private readonly speeds = new Map<string, number>();

  /** A piece of work took so long. What is no measurement (too short, not finite) is ignored. */
  record(peerId: string, multiplyAdds: number, milliseconds: number): void {
    const speed = (multiplyAdds / milliseconds) * 1000;
    if (!(milliseconds >= MIN_SAMPLE_MS && speed > 0 && speed < MOST_SPEED)) return;
    const before = this.speeds.get(peerId);
    // In proportion, not in difference: one slow op in the middle of fast ones must not turn the plan over.
    this.speeds.set(peerId, before === undefined ? speed : before * (speed / before) ** SMOOTHING);
  }

  /** Multiply-adds per second; undefined before the first measurement. */
  speedOf(peerId: string): number | undefined {
    return this.speeds.get(peerId);
  }

  /** True where every one of these has been measured. */
  knows(peerIds: readonly string[]): boolean {
    return peerIds.every((peerId) => this.speeds.has(peerId));
  }

  forget(peerId: string): void {
    this.speeds.delete(peerId);
  }

  /** What to divide tokens by, in the order of `peerIds`; all 1 before anything was measured. */
  weightsOf(peerIds: readonly string[]): number[] {
    const known = peerIds.flatMap((peerId) => this.speeds.get(peerId) ?? []).sort((a, b) => a - b);
    if (known.length === 0) return peerIds.map(() => 1);
    const middle = known[known.length >> 1]!;
    return peerIds.map((peerId) =>
      Math.min(middle * MOST_RATIO, Math.max(middle / MOST_RATIO, this.speeds.get(peerId) ?? middle)),
    );
  }
}
