/** Sets of token positions: ranges as lists and back. Pure. */
import { OptionError } from "../errors.ts";
import { expectInteger } from "../shape.ts";
import { lastPosition, tokenCount } from "./shard.ts";
import type { TokenRange } from "./types.ts";

/** Largest position: kernels add windows to it in u32. */
export const MAX_POSITION = 2 ** 31 - 1;

/** @throws {OptionError} where a range is no range: start, stride and count must be integers, and positions below 2^31. */
export function checkRanges(where: string, name: string, ranges: readonly TokenRange[]): void {
  for (const range of ranges) {
    expectInteger(where, `${name}.count`, range.count, 0, MAX_POSITION);
    expectInteger(where, `${name}.start`, range.start, 0, MAX_POSITION);
    expectInteger(where, `${name}.stride`, range.stride, 1, MAX_POSITION);
    if (range.count > 0 && lastPosition(range) > MAX_POSITION)
      throw new OptionError(
        `${where}: expected ${name} up to position ${MAX_POSITION}, got ${range.count} positions from ${range.start} by ${range.stride}`,
      );
  }
}

/** The positions of all tokens, in the order of the ranges. */
export function listPositions(ranges: readonly TokenRange[]): Uint32Array<ArrayBuffer> {
  const list = new Uint32Array(tokenCount(ranges));
  let at = 0;
  for (const { start, stride, count } of ranges) for (let i = 0; i < count; i++) list[at++] = start + i * stride;
  return list;
}

/** Sorts in place where it has to. Returns the first position that comes twice, if one does. */
function sortUnique(list: Uint32Array<ArrayBuffer>): number | undefined {
  let isAscending = true;
  for (let i = 1; i < list.length && isAscending; i++) isAscending = list[i]! > list[i - 1]!;
  if (isAscending) return undefined;
  list.sort();
  for (let i = 1; i < list.length; i++) if (list[i] === list[i - 1]) return list[i];
  return undefined;
}

/** The positions of all tokens, ascending. @throws {OptionError} where one comes twice. */
export function sortedPositions(where: string, ranges: readonly TokenRange[]): Uint32Array<ArrayBuffer> {
  const list = listPositions(ranges);
  const twice = sortUnique(list);
  if (twice !== undefined) throw new OptionError(`${where}: expected each position once, got ${twice} twice`);
  return list;
}

/** True where both hold the same positions, in whatever order. Neither may hold one twice; `sorted` must be ascending. */
export function isSamePositions(ranges: readonly TokenRange[], sorted: Uint32Array<ArrayBuffer>): boolean {
  if (tokenCount(ranges) !== sorted.length) return false;
  const list = listPositions(ranges);
  if (sortUnique(list) !== undefined) return false;
  for (let i = 0; i < list.length; i++) if (list[i] !== sorted[i]) return false;
  return true;
}

/** A list of positions as ranges, in its order: the longest runs of one stride, one after the other. */
export function toRanges(list: ArrayLike<number>): TokenRange[] {
  const ranges: TokenRange[] = [];
  for (let i = 0; i < list.length; ) {
    const start = list[i]!;
    const stride = i + 1 < list.length && list[i + 1]! > start ? list[i + 1]! - start : 1;
    let count = 1;
    while (i + count < list.length && list[i + count]! === start + count * stride) count++;
    ranges.push({ start, stride, count });
    i += count;
  }
  return ranges;
}

/** Index of the first element that is at least `value`, in an ascending list; its length where none is. */
export function lowerBound(list: ArrayLike<number>, value: number): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Smallest and largest position, or undefined where there is none. */
export function intervalOf(ranges: readonly TokenRange[]): { min: number; max: number } | undefined {
  let min = Number.POSITIVE_INFINITY;
  let max = -1;
  for (const range of ranges) {
    if (range.count === 0) continue;
    min = Math.min(min, range.start);
    max = Math.max(max, lastPosition(range));
  }
  return max < 0 ? undefined : { min, max };
}

/** For messages: "tokens 0-7, 16, 20-40 by 4", shortened past a few ranges. */
export function formatRanges(ranges: readonly TokenRange[]): string {
  const filled = ranges.filter((range) => range.count > 0);
  if (filled.length === 0) return "no tokens";
  const parts = filled.slice(0, 4).map((range) => {
    if (range.count === 1) return `${range.start}`;
    return `${range.start}-${lastPosition(range)}${range.stride > 1 ? ` by ${range.stride}` : ""}`;
  });
  if (filled.length > parts.length) parts.push(`... (${tokenCount(ranges)} in all)`);
  return `tokens ${parts.join(", ")}`;
}
