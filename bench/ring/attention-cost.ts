/** What an attention dispatch costs: the pairs that its mask lets through, read from what is bound. */
import type { BoundBytes } from "./stand-in-device.ts";

/** Words of the uniform block of the attention kernels (shaders/lib/attention-params.wgsl). */
const SEQ_LEN = 1;
const KV_LEN = 2;
/** Each: whether positions are listed, start, step, and where the list begins in its binding. */
const QUERY = 28;
const KV = 32;
/** Bindings of the position lists (shaders/lib/positions.wgsl). */
const QUERY_POSITIONS = 7;
const KV_POSITIONS = 8;

const words = (bytes: Uint8Array<ArrayBuffer>, first: number, count: number) =>
  new Uint32Array(bytes.slice(first * 4, (first + count) * 4).buffer);

/** Ascending. */
function positions(params: Uint32Array, word: number, count: number, list: () => Uint8Array<ArrayBuffer>): Uint32Array {
  const [isListed, start, step, skip] = params.subarray(word, word + 4) as unknown as [number, number, number, number];
  return isListed ? words(list(), skip, count).sort() : Uint32Array.from({ length: count }, (_, i) => start + i * step);
}

/** True for the kernels that meet a block. */
export const isAttentionStep = (label: string): boolean => label.startsWith("attention") && label.endsWith(" state");

/** (query, key) pairs of one dispatch that the mask lets through. */
export function pairsOfDispatch(isCausal: boolean, bound: BoundBytes): number {
  const params = words(bound(0), 0, 56);
  const [seqLen, kvLen] = [params[SEQ_LEN]!, params[KV_LEN]!];
  if (!isCausal) return seqLen * kvLen;
  const keys = positions(params, KV, kvLen, () => bound(KV_POSITIONS));
  let pairs = 0;
  let seen = 0;
  for (const query of positions(params, QUERY, seqLen, () => bound(QUERY_POSITIONS))) {
    while (seen < kvLen && keys[seen]! <= query) seen++;
    pairs += seen;
  }
  return pairs;
}
