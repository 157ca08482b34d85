/**
 * Sets of positions: who holds what, what is missing. Pure. Sets are lists of token ranges, as everywhere; the ones that come
 * in may overlap and be in any order, the ones that go out are normal: each position once, few ranges, equal for equal sets.
 *
 * Every function walks the positions (a byte for each), which for 100,000 tokens takes a fraction of a millisecond and is
 * obviously right; ranges with strides have no short algebra once a peer has taken over a part of another's stripes.
 */
import { PeerError } from "../errors.ts";
import type { TokenRange } from "../ring/types.ts";
import { describeValue } from "../shape.ts";

/** Positions are below this: bounds what a range may make anyone allocate. */
export const MAX_POSITIONS = 2 ** 24;
/** Most ranges that {@link decodeRanges} takes: about 0.5 MiB of text. */
const MAX_RANGES = 2 ** 16;
/** How many of the next positions are tried as the second one of a stripe. */
const STRIDE_CANDIDATES = 16;

type Ranges = readonly TokenRange[];

function checkRange(where: string, { start, stride, count }: TokenRange): void {
  const isRange =
    Number.isInteger(start) && Number.isInteger(stride) && Number.isInteger(count) && start >= 0 && stride >= 1;
  if (isRange && count >= 0 && (count === 0 || start + (count - 1) * stride < MAX_POSITIONS)) return;
  throw new PeerError(
    `${where}: expected a range of positions from 0 to ${MAX_POSITIONS - 1} with stride >= 1, got start ${start}, stride ${stride}, count ${count}`,
  );
}

/** Past the last position of all sets. */
function endOf(where: string, sets: readonly Ranges[]): number {
  let end = 0;
  for (const set of sets)
    for (const range of set) {
      checkRange(where, range);
      if (range.count > 0) end = Math.max(end, range.start + (range.count - 1) * range.stride + 1);
    }
  return end;
}

function mark(members: Uint8Array, set: Ranges, value: 0 | 1): void {
  for (const { start, stride, count } of set)
    for (let i = 0, at = start; i < count && at < members.length; i++, at += stride) members[at] = value;
}

/** Ranges one after the other, positions ascending from first to last. */
function ascending(members: Uint8Array): TokenRange[] {
  const ranges: TokenRange[] = [];
  let at = members.indexOf(1);
  while (at >= 0) {
    const second = members.indexOf(1, at + 1);
    if (second < 0) {
      ranges.push({ start: at, stride: 1, count: 1 });
      break;
    }
    const stride = second - at;
    let count = 2;
    let last = second;
    let next = members.indexOf(1, last + 1);
    while (next >= 0 && next - last === stride) {
      count++;
      last = next;
      next = members.indexOf(1, last + 1);
    }
    // A pair that is apart is no stripe: its second may begin one.
    if (count === 2 && stride > 1 && next >= 0) {
      ranges.push({ start: at, stride: 1, count: 1 });
      at = second;
    } else {
      ranges.push({ start: at, stride, count });
      at = next;
    }
  }
  return ranges;
}

/** Stripes that may interleave, the longest first from each start; undefined where that takes `most` ranges or more. */
function stripes(members: Uint8Array, most: number): TokenRange[] | undefined {
  const rest = members.slice();
  const ranges: TokenRange[] = [];
  for (let start = rest.indexOf(1); start >= 0; start = rest.indexOf(1, start + 1)) {
    if (ranges.length + 1 >= most) return undefined;
    let best = { start, stride: 1, count: 1 };
    let second = start;
    for (let tried = 0; tried < STRIDE_CANDIDATES; tried++) {
      second = rest.indexOf(1, second + 1);
      if (second < 0) break;
      const stride = second - start;
      let count = 2;
      while (rest[start + count * stride] === 1) count++;
      if (count > best.count) best = { start, stride, count };
    }
    ranges.push(best);
    mark(rest, [best], 0);
  }
  return ranges;
}

function toRanges(members: Uint8Array): TokenRange[] {
  const plain = ascending(members);
  // What a few ranges say is best said in order; a peer that took over a part of another's stripes takes the other way.
  return plain.length <= 8 ? plain : (stripes(members, plain.length) ?? plain);
}

function membersOf(where: string, sets: readonly Ranges[]): Uint8Array {
  const members = new Uint8Array(endOf(where, sets));
  for (const set of sets) mark(members, set, 1);
  return members;
}

/**
 * Positions that are in any of the sets, each once, in normal form: ranges sorted by their first position. They may
 * interleave where that takes fewer of them; see {@link ascendingRanges}.
 * @throws {PeerError} for a range outside of 0 to {@link MAX_POSITIONS} - 1.
 */
export const unionOf = (...sets: readonly Ranges[]): TokenRange[] => toRanges(membersOf("unionOf", sets));

/** The same positions, each once and ascending from the first range to the last: what an op's tokens must be. */
export const ascendingRanges = (ranges: Ranges): TokenRange[] => ascending(membersOf("ascendingRanges", [ranges]));

/** Positions of `set` that are in none of the others. */
export function differenceOf(set: Ranges, ...others: readonly Ranges[]): TokenRange[] {
  const members = membersOf("differenceOf", [set]);
  endOf("differenceOf", others);
  for (const other of others) mark(members, other, 0);
  return toRanges(members);
}

/** Positions that are in both sets. */
export function intersectionOf(one: Ranges, other: Ranges): TokenRange[] {
  const members = membersOf("intersectionOf", [one]);
  const others = membersOf("intersectionOf", [other]);
  for (let at = 0; at < members.length; at++) members[at] = members[at]! & (others[at] ?? 0);
  return toRanges(members);
}

/** Positions of `[0, total)` that nobody holds. */
export const missingFrom = (total: number, sets: readonly Ranges[]): TokenRange[] =>
  differenceOf([{ start: 0, stride: 1, count: total }], ...sets);

/** How many different positions the set has. */
export const positionCount = (ranges: Ranges): number =>
  membersOf("positionCount", [ranges]).reduce((sum, member) => sum + member, 0);

/** Positions that more than one of the sets holds, or one of them twice: none, where a plan is right. */
export function overlapOf(sets: readonly Ranges[]): TokenRange[] {
  const seen = new Uint8Array(endOf("overlapOf", sets));
  const twice = new Uint8Array(seen.length);
  for (const set of sets)
    for (const { start, stride, count } of set)
      for (let i = 0, at = start; i < count; i++, at += stride) {
        if (seen[at] === 1) twice[at] = 1;
        seen[at] = 1;
      }
  return toRanges(twice);
}

/** True where both are sets of the same positions. */
export function isSameSet(one: Ranges, other: Ranges): boolean {
  const a = membersOf("isSameSet", [one]);
  const b = membersOf("isSameSet", [other]);
  return a.lastIndexOf(1) === b.lastIndexOf(1) && a.every((member, at) => member === (b[at] ?? 0));
}

/**
 * Every `stride`-th position of the list `ranges`, from the `first`-th on, `count` of them: positions by their place in the
 * list. Ranges that touch are joined.
 */
export function pickRanges(ranges: Ranges, first: number, stride: number, count: number): TokenRange[] {
  const picked: TokenRange[] = [];
  const end = first + count * stride;
  let offset = 0;
  for (const range of ranges) {
    const skipped = first >= offset ? first - offset : (stride - ((offset - first) % stride)) % stride;
    const stop = Math.min(range.count, end - offset);
    if (skipped < stop) {
      const start = range.start + skipped * range.stride;
      push(picked, { start, stride: range.stride * stride, count: Math.ceil((stop - skipped) / stride) });
    }
    offset += range.count;
  }
  return picked;
}

/** Adds a range at the end of a list, joined with the last one where both are runs that touch. */
function push(list: TokenRange[], range: TokenRange): void {
  const plain = range.count === 1 ? { ...range, stride: 1 } : range;
  const last = list.at(-1);
  if (last?.stride === 1 && plain.stride === 1 && last.start + last.count === plain.start) last.count += plain.count;
  else list.push(plain);
}

/**
 * Ranges as short text, for control messages: `start`, `start:count` or `start:count:stride` in base 36, with commas between.
 * @see decodeRanges
 */
export const encodeRanges = (ranges: Ranges): string =>
  ranges
    .filter(({ count }) => count > 0)
    .map(({ start, stride, count }) =>
      (count === 1 ? [start] : stride === 1 ? [start, count] : [start, count, stride])
        .map((number) => number.toString(36))
        .join(":"),
    )
    .join(",");

/**
 * What {@link encodeRanges} wrote, as another peer sent it: checked, and in normal form.
 * @param total Positions have to be below.
 * @throws {PeerError} for anything but distinct positions of `[0, total)`.
 */
export function decodeRanges(text: unknown, total: number): TokenRange[] {
  const fail = (what: string): never => {
    throw new PeerError(`decodeRanges: expected ${what}, got ${describeValue(text)}`);
  };
  if (typeof text !== "string" || text.length > MAX_RANGES * 8) return fail(`ranges as text of at most ${MAX_RANGES}`);
  if (text === "") return [];
  const ranges = text.split(",").map((part) => {
    const numbers = part.split(":");
    if (numbers.length > 3 || !numbers.every((digits) => /^[0-9a-z]{1,6}$/.test(digits)))
      fail('"start", "start:count" or "start:count:stride" in base 36, with commas between');
    const [start = 0, count = 1, stride = 1] = numbers.map((digits) => Number.parseInt(digits, 36));
    if (stride < 1 || count < 1 || start + (count - 1) * stride >= Math.min(total, MAX_POSITIONS))
      fail(`positions below ${total}`);
    return { start, stride, count };
  });
  if (ranges.length > MAX_RANGES) fail(`at most ${MAX_RANGES} ranges`);
  // Before anything is walked: the counts of distinct positions cannot be more than there are positions.
  if (ranges.reduce((sum, { count }) => sum + count, 0) > total || overlapOf([ranges]).length > 0)
    fail("every position once");
  return unionOf(ranges);
}
