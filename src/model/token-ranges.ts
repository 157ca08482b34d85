/** What a rank holds, with more and with less: on top of the ring's sets of positions. Pure. */
import { isSamePositions, sortedPositions, toRanges } from "../ring/positions.ts";
import { lastPosition } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";

/** One range behind another, as one where that says the same. */
function joined(one: TokenRange, next: TokenRange): TokenRange[] {
  const gap = next.start - lastPosition(one);
  const fits = ({ count, stride }: TokenRange) => count === 1 || stride === gap;
  return fits(one) && fits(next) ? [{ start: one.start, stride: gap, count: one.count + next.count }] : [one, next];
}

/** {@link mergeRanges} of two ascending lists, without a look at every position where the second comes after the first. */
export function addRanges(where: string, held: readonly TokenRange[], more: readonly TokenRange[]): TokenRange[] {
  const last = held.at(-1);
  const [first, ...rest] = more;
  if (!first) return [...held];
  if (!last) return [...more];
  if (lastPosition(last) >= first.start) return mergeRanges(where, held, more);
  return [...held.slice(0, -1), ...joined(last, first), ...rest];
}

/** All positions of the lists, ascending from the first range to the last. @throws {OptionError} where one comes twice. */
export const mergeRanges = (where: string, ...lists: readonly (readonly TokenRange[])[]): TokenRange[] =>
  toRanges(sortedPositions(where, lists.flat()));

/** The positions of `ranges` that are not among `gone`, ascending. @throws {OptionError} where one comes twice. */
export function withoutRanges(where: string, ranges: readonly TokenRange[], gone: readonly TokenRange[]): TokenRange[] {
  const dropped = new Set(sortedPositions(where, gone));
  return toRanges(sortedPositions(where, ranges).filter((position) => !dropped.has(position)));
}

/** True where both are the same positions. @throws {OptionError} where one comes twice. */
export const areSameTokens = (where: string, a: readonly TokenRange[], b: readonly TokenRange[]): boolean =>
  isSamePositions(a, sortedPositions(where, b));
