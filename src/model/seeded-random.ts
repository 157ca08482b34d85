/** A seeded generator of random numbers, the same on every machine. */

/**
 * mulberry32 (Tommy Ettinger, public domain): 32 bits of state, integer arithmetic only, so that every engine gives the
 * same sequence.
 * @returns a function that gives the next number, uniform in [0, 1), a multiple of 2^-32
 */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
