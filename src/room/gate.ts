/**
 * Who is listened to in signalling, before anything is spent on them. Each id heard of costs an offered connection, so a
 * flood of ids must not get through; nor may those who were banned, refused a moment ago, or reached in another way.
 */

const ID = /^[0-9A-Za-z]{20}$/;
const MAX_IDS = 512;
const BURST = 80;
const NEW_IDS_PER_SECOND = 4;
const REFUSED_MS = 20_000;

/** See {@link createGate}. */
export interface Gate {
  /** Whether a signalling message of this peer may go on. */
  lets(peerId: unknown): boolean;
  /** Never again. */
  ban(peerId: string): void;
  isBanned(peerId: string): boolean;
  /** Not for a while: it was just turned away. */
  refuse(peerId: string): void;
  /** Not while it is reached in another way (a tab of the same browser). */
  setElsewhere(peerId: string, isElsewhere: boolean): void;
}

/** @param nowMs The clock, for tests. */
export function createGate(nowMs: () => number = () => performance.now()): Gate {
  const known = new Set<string>();
  const banned = new Set<string>();
  const refusedUntilMs = new Map<string, number>();
  const elsewhere = new Set<string>();
  let credit = BURST;
  let lastMs = nowMs();

  /** A token bucket over ids that were never heard before. */
  function takeNew(peerId: string): boolean {
    const now = nowMs();
    credit = Math.min(BURST, credit + ((now - lastMs) / 1000) * NEW_IDS_PER_SECOND);
    lastMs = now;
    if (credit < 1) return false;
    credit -= 1;
    if (known.size >= MAX_IDS) known.delete(known.values().next().value!);
    known.add(peerId);
    return true;
  }

  return {
    lets(peerId) {
      if (typeof peerId !== "string" || !ID.test(peerId)) return false;
      if (banned.has(peerId) || elsewhere.has(peerId)) return false;
      const untilMs = refusedUntilMs.get(peerId);
      if (untilMs !== undefined) {
        if (nowMs() < untilMs) return false;
        refusedUntilMs.delete(peerId);
      }
      return known.has(peerId) || takeNew(peerId);
    },
    ban: (peerId) => void banned.add(peerId),
    isBanned: (peerId) => banned.has(peerId),
    refuse(peerId) {
      if (refusedUntilMs.size >= MAX_IDS) refusedUntilMs.delete(refusedUntilMs.keys().next().value!);
      refusedUntilMs.set(peerId, nowMs() + REFUSED_MS);
    },
    setElsewhere(peerId, isElsewhere) {
      if (isElsewhere) elsewhere.add(peerId);
      else elsewhere.delete(peerId);
    },
  };
}
