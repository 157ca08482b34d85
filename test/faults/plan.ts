/** Which faults are done, to whom and when: seeded, so that one that failed can be done again by its number. */

/** What can happen to a peer. */
export const FAULT_KINDS = [
  "tabClosed",
  "pageCrashed",
  "browserKilled",
  "stopped3s",
  "stopped8s",
  "deviceDestroyed",
  "linkSilent",
  "linkCut",
  "slow",
  "corrupt",
  "truncate",
  "repeat",
  "reorder",
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

/** One fault of the suite. */
export interface Fault {
  number: number;
  kind: FaultKind;
  ranks: 3 | 5;
  /** Rank that it is done to; 0 leads. */
  victim: number;
  phase: "prefill" | "decode";
  /** How far in the phase, 0 to 1. */
  moment: number;
  /** And so many milliseconds later. */
  delayMs: number;
}

/** mulberry32: small, and the same everywhere. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * So many faults: every kind, in rings of 3 and of 5, with each rank as the victim in turn and in both phases, comes up before
 * anything comes up twice; moments are random.
 */
export function planFaults(count: number, seed: number): Fault[] {
  const random = randomFrom(seed);
  const all = ([3, 5] as const).flatMap((ranks) =>
    FAULT_KINDS.flatMap((kind) =>
      Array.from({ length: ranks }, (_, victim) => victim).flatMap((victim) =>
        (["prefill", "decode"] as const).map((phase) => ({ kind, ranks, victim, phase })),
      ),
    ),
  );
  const faults: Omit<Fault, "number">[] = [];
  while (faults.length < count) {
    const round = [...all];
    // Fisher-Yates: a run that is cut short has still seen a mixture.
    for (let i = round.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [round[i], round[j]] = [round[j]!, round[i]!];
    }
    for (const fault of round) faults.push({ ...fault, moment: random(), delayMs: Math.floor(random() * 80) });
  }
  return faults.slice(0, count).map((fault, index) => ({ number: index + 1, ...fault }));
}
