/** Sets of positions against plain Sets: any ranges, overlapping or not, any order. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PeerError } from "../../src/errors.ts";
import {
  ascendingRanges,
  decodeRanges,
  differenceOf,
  encodeRanges,
  intersectionOf,
  isSameSet,
  missingFrom,
  overlapOf,
  pickRanges,
  positionCount,
  unionOf,
} from "../../src/peers/holdings.ts";
import { positionsOf } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";

const range = fc.record({
  start: fc.integer({ min: 0, max: 200 }),
  stride: fc.integer({ min: 1, max: 12 }),
  count: fc.integer({ min: 0, max: 40 }),
});
const ranges = fc.array(range, { maxLength: 8 });
const setOf = (list: readonly TokenRange[]) => new Set(positionsOf(list));
const sorted = (positions: Iterable<number>) => [...positions].sort((a, b) => a - b);

/** The positions of what came out, which has to have each once. */
function members(list: readonly TokenRange[]): number[] {
  const all = [...positionsOf(list)];
  expect(new Set(all).size).toBe(all.length);
  return sorted(all);
}

describe("sets of positions", () => {
  it("union, difference and intersection are those of plain sets", () => {
    fc.assert(
      fc.property(ranges, ranges, (a, b) => {
        const [one, other] = [setOf(a), setOf(b)];
        expect(members(unionOf(a, b))).toEqual(sorted(new Set([...one, ...other])));
        expect(members(differenceOf(a, b))).toEqual(sorted([...one].filter((at) => !other.has(at))));
        expect(members(intersectionOf(a, b))).toEqual(sorted([...one].filter((at) => other.has(at))));
        expect(positionCount(a)).toBe(one.size);
        expect(isSameSet(a, b)).toBe(one.size === other.size && [...one].every((at) => other.has(at)));
      }),
    );
  });

  it("what is missing and what is held twice", () => {
    fc.assert(
      fc.property(fc.array(ranges, { maxLength: 4 }), fc.integer({ min: 0, max: 300 }), (sets, total) => {
        const times = new Map<number, number>();
        for (const at of sets.flatMap((set) => [...positionsOf(set)])) times.set(at, (times.get(at) ?? 0) + 1);
        const all = Array.from({ length: total }, (_, at) => at);
        expect(members(missingFrom(total, sets))).toEqual(all.filter((at) => !times.has(at)));
        expect(members(overlapOf(sets))).toEqual(sorted([...times].flatMap(([at, n]) => (n > 1 ? [at] : []))));
      }),
    );
  });

  it("normal form depends on the positions alone, ascending form ascends", () => {
    fc.assert(
      fc.property(ranges, (list) => {
        const single = [...setOf(list)].reverse().map((start) => ({ start, stride: 3, count: 1 }));
        expect(unionOf(single)).toEqual(unionOf(list));
        expect(unionOf(unionOf(list))).toEqual(unionOf(list));
        expect([...positionsOf(ascendingRanges(list))]).toEqual(sorted(setOf(list)));
      }),
    );
  });

  it("a stripe with a part of another's stripes is two ranges, however long", () => {
    const own = { start: 1, stride: 3, count: 30_000 };
    const taken = { start: 3, stride: 6, count: 15_000 };
    expect(unionOf([taken], [own])).toEqual([own, taken]);
    expect(missingFrom(90_000, [[own]])).toHaveLength(2);
  });

  it("runs with a hole stay runs", () => {
    expect(
      unionOf([
        { start: 0, stride: 1, count: 5 },
        { start: 6, stride: 1, count: 100 },
      ]),
    ).toEqual([
      { start: 0, stride: 1, count: 5 },
      { start: 6, stride: 1, count: 100 },
    ]);
  });

  it("picks every n-th position of a list", () => {
    fc.assert(
      fc.property(
        ranges,
        fc.integer({ min: 0, max: 50 }),
        fc.integer({ min: 1, max: 7 }),
        fc.integer({ min: 0, max: 60 }),
        (list, first, stride, count) => {
          const all = [...positionsOf(ascendingRanges(list))];
          const expected = Array.from({ length: count }, (_, i) => all[first + i * stride]).filter(
            (at) => at !== undefined,
          );
          expect([...positionsOf(pickRanges(ascendingRanges(list), first, stride, count))]).toEqual(expected);
        },
      ),
    );
  });

  it("survives being written and read", () => {
    fc.assert(
      fc.property(ranges, (list) => {
        expect(decodeRanges(encodeRanges(unionOf(list)), 1000)).toEqual(unionOf(list));
      }),
    );
    expect(encodeRanges([{ start: 36, stride: 3, count: 72 }])).toBe("10:20:3");
  });

  it("refuses what another peer must not say", () => {
    const bad = [
      undefined,
      7,
      "a:b:c:d",
      "-1",
      "1:0",
      "5:1:0",
      "1,1",
      "0:2,1:2",
      "zzzzzz",
      "2:9",
      "1;2",
      "1.5",
      "0:zzzzz",
      ",",
    ];
    for (const text of bad) expect(() => decodeRanges(text, 10), String(text)).toThrow(PeerError);
    expect(() => decodeRanges("0,".repeat(100_000), 10)).toThrow(PeerError);
    expect(() => unionOf([{ start: 0, stride: 1, count: 2 ** 30 }])).toThrow(PeerError);
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."0123abz:,"), maxLength: 12 }), (text) => {
        let held: TokenRange[] = [];
        try {
          held = decodeRanges(text, 50);
        } catch (error) {
          expect(error).toBeInstanceOf(PeerError);
        }
        for (const at of positionsOf(held)) expect(at >= 0 && at < 50).toBe(true);
      }),
    );
  });
});
