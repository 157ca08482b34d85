/** Seeded random inputs: the same in every run and on every machine. */

/** `count` standard normal numbers from a 32-bit seed (mulberry32, Box-Muller). */
export function normals(count: number, seed: number): Float32Array<ArrayBuffer> {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const data = new Float32Array(count);
  for (let index = 0; index < count; index++)
    data[index] = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return data;
}
