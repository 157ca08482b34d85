/**
 * How many useless frames a peer may send: leaky buckets over the link's counters. Honest peers send some, after an abort, a
 * change of epoch or a change of wires; a flood of them is an attack, or a broken peer.
 */
import type { LinkCounters } from "./types.ts";

/** Frames that may come at once, and per second for as long as the link lives. A GiB in chunks is 16,384 frames. */
const USELESS = { burst: 32_768, perSecond: 512 };
const DAMAGED = { burst: 512, perSecond: 8 };

class Bucket {
  private level = 0;
  private counted = 0;
  private atMs: number;

  constructor(
    private readonly limit: { burst: number; perSecond: number },
    private readonly now: () => number,
  ) {
    this.atMs = now();
  }

  /** Whether more has come than may. @param count ever */
  overflows(count: number): boolean {
    if (count === this.counted) return false;
    const now = this.now();
    this.level = Math.max(0, this.level - ((now - this.atMs) / 1000) * this.limit.perSecond) + count - this.counted;
    this.atMs = now;
    this.counted = count;
    return this.level > this.limit.burst;
  }
}

/** See the module's comment. */
export class JunkMeter {
  private readonly useless: Bucket;
  private readonly damaged: Bucket;

  constructor(
    private readonly counters: Readonly<LinkCounters>,
    clock: { now(): number },
  ) {
    this.useless = new Bucket(USELESS, () => clock.now());
    this.damaged = new Bucket(DAMAGED, () => clock.now());
  }

  /** What the other end has sent too much of, if anything; follows its name in a sentence. */
  excess(): string | undefined {
    const { stale, duplicate, unexpected, corrupt } = this.counters;
    if (this.damaged.overflows(corrupt)) return `sent ${corrupt} damaged frames`;
    if (this.useless.overflows(stale + duplicate + unexpected))
      return `sent ${stale + duplicate + unexpected} frames that are stale, repeated or not asked for`;
    return undefined;
  }
}
