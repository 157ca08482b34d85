/** Plans: every token exactly once, in proportion to speed, within room, causal work even. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError, PeerError } from "../../src/errors.ts";
import { missingFrom, overlapOf, positionCount, unionOf } from "../../src/peers/holdings.ts";
import {
  cutMove,
  planKeeper,
  planMoves,
  planNextOp,
  planRecovery,
  planShards,
  sharesOf,
} from "../../src/peers/plan.ts";
import { PeerSpeeds } from "../../src/peers/speeds.ts";
import { workPerRank } from "../../src/ring/schedule.ts";
import { positionsOf, shardTokens, tokenCount } from "../../src/ring/shard.ts";
import type { RingLayout, TokenRange } from "../../src/ring/types.ts";

const LAYOUTS: readonly RingLayout[] = ["contiguous", "zigzag", "striped"];
const layouts = fc.constantFrom(...LAYOUTS);
const span = (start: number, count: number): TokenRange[] => [{ start, stride: 1, count }];
/** From 1 to 20: the slowest peer that the ring is made for. */
const weightLists = fc.array(fc.double({ min: 1, max: 20, noNaN: true }), { minLength: 1, maxLength: 8 });

const sorted = (positions: Iterable<number>) => [...positions].sort((a, b) => a - b);
const isAscending = (ranges: readonly TokenRange[]) => {
  const positions = [...positionsOf(ranges)];
  return positions.every((at, i) => i === 0 || at > positions[i - 1]!);
};

describe("shares", () => {
  it("add up, stay within room, and are within one token of the proportion where room allows", () => {
    fc.assert(
      fc.property(weightLists, fc.integer({ min: 0, max: 5000 }), (weights, count) => {
        const shares = sharesOf(count, weights);
        const total = weights.reduce((a, b) => a + b, 0);
        expect(shares.reduce((a, b) => a + b, 0)).toBe(count);
        for (const [rank, share] of shares.entries())
          expect(Math.abs(share - (count * weights[rank]!) / total)).toBeLessThan(1 + 1e-6);
      }),
    );
  });

  it("give what does not fit to the others, and refuse what fits nowhere", () => {
    expect(sharesOf(100, [1, 1, 2], [10, 1000, 1000])).toEqual([10, 30, 60]);
    expect(sharesOf(100, [0, 0, 1], [60, 60, 10])).toEqual([45, 45, 10]);
    expect(sharesOf(7, [1, 1, 1])).toEqual([3, 2, 2]);
    expect(() => sharesOf(31, [1, 2], [10, 20])).toThrow(PeerError);
    expect(() => sharesOf(1, [Number.NaN])).toThrow(OptionError);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 50 })), {
          minLength: 1,
          maxLength: 8,
        }),
        fc.integer({ min: 0, max: 400 }),
        (ranks, count) => {
          const weights = ranks.map(([weight]) => weight);
          const room = ranks.map(([, tokens]) => tokens);
          if (room.reduce((a, b) => a + b, 0) < count) {
            expect(() => sharesOf(count, weights, room)).toThrow(PeerError);
            return;
          }
          const shares = sharesOf(count, weights, room);
          expect(shares.reduce((a, b) => a + b, 0)).toBe(count);
          for (const [rank, share] of shares.entries()) expect(share).toBeLessThanOrEqual(room[rank]!);
        },
      ),
    );
  });
});

describe("planShards", () => {
  it("is shardTokens where all are alike", () => {
    for (const layout of LAYOUTS)
      for (const worldSize of [1, 2, 3, 7])
        for (const [start, count] of [
          [0, 100],
          [13, 101],
          [5, 2],
        ] as const) {
          const expected = shardTokens({ start, count, worldSize, layout });
          expect(planShards({ tokens: span(start, count), worldSize, layout })).toEqual(expected);
          const weights = Array.from({ length: worldSize }, () => 3e9);
          expect(planShards({ tokens: span(start, count), worldSize, layout, weights })).toEqual(expected);
        }
  });

  it("gives every token to exactly one rank, ascending, whatever was lost and however uneven the ranks", () => {
    const lost = fc.array(
      fc.record({
        start: fc.integer({ min: 0, max: 300 }),
        stride: fc.integer({ min: 1, max: 9 }),
        count: fc.integer({ min: 0, max: 60 }),
      }),
      { maxLength: 5 },
    );
    fc.assert(
      fc.property(lost, weightLists, layouts, fc.integer({ min: 0, max: 30 }), (pieces, weights, layout, spare) => {
        const tokens = unionOf(pieces);
        const count = tokenCount(tokens);
        const room = weights.map((_, rank) => (rank === 0 ? count : spare));
        const shards = planShards({ tokens, worldSize: weights.length, layout, weights, room });
        expect(sorted(shards.flatMap((shard) => [...positionsOf(shard)]))).toEqual(sorted(positionsOf(tokens)));
        for (const [rank, shard] of shards.entries()) {
          expect(isAscending(shard)).toBe(true);
          expect(tokenCount(shard)).toBeLessThanOrEqual(room[rank]!);
        }
      }),
    );
  });

  it("finishes causal work at the same time on all ranks, under zigzag and striped", () => {
    fc.assert(
      fc.property(
        fc.constantFrom<RingLayout>("zigzag", "striped"),
        fc.array(fc.double({ min: 1, max: 20, noNaN: true }), { minLength: 2, maxLength: 6 }),
        fc.integer({ min: 2000, max: 4000 }),
        (layout, weights, count) => {
          const shards = planShards({ tokens: span(0, count), worldSize: weights.length, layout, weights });
          const times = workPerRank(shards, shards, { isCausal: true }).map((work, rank) => work / weights[rank]!);
          const mean = times.reduce((a, b) => a + b, 0) / times.length;
          // The smallest share is at least 15 tokens or so: a token more or less is within a few percent.
          expect(Math.max(...times) / mean).toBeLessThan(1.07);
          expect(Math.min(...times) / mean).toBeGreaterThan(0.93);
        },
      ),
      { numRuns: 40 },
    );
  });

  it("a rank 20 times slower does not hold the others up", () => {
    const weights = [20, 20, 1, 20];
    for (const layout of ["zigzag", "striped"] as const) {
      const even = planShards({ tokens: span(0, 4000), worldSize: 4, layout });
      const sized = planShards({ tokens: span(0, 4000), worldSize: 4, layout, weights });
      const slowest = (shards: TokenRange[][]) =>
        Math.max(...workPerRank(shards, shards, { isCausal: true }).map((work, rank) => work / weights[rank]!));
      expect(slowest(even) / slowest(sized)).toBeGreaterThan(14);
    }
  });

  it("has few ranges, however long the context", () => {
    const weights = [3, 1.7, 9, 0.4];
    for (const layout of LAYOUTS)
      for (const shard of planShards({ tokens: span(0, 1_000_000), worldSize: 4, layout, weights }))
        expect(shard.length).toBeLessThanOrEqual(64);
    const lost = [{ start: 2, stride: 5, count: 50_000 }];
    for (const layout of LAYOUTS)
      for (const shard of planShards({ tokens: lost, worldSize: 4, layout }))
        expect(shard.length).toBeLessThanOrEqual(2);
  });

  it("refuses what makes no sense", () => {
    const good = { tokens: span(0, 10), worldSize: 2, layout: "zigzag" as const };
    expect(() => planShards({ ...good, worldSize: 0 })).toThrow(OptionError);
    expect(() => planShards({ ...good, layout: "spiral" as RingLayout })).toThrow(OptionError);
    expect(() => planShards({ ...good, weights: [1] })).toThrow(OptionError);
    expect(() => planShards({ ...good, weights: [1, -1] })).toThrow(OptionError);
    expect(() => planShards({ ...good, room: [4, 5] })).toThrow(
      "sharesOf: expected room for 10 tokens, got room for 9 on 2 ranks",
    );
  });
});

describe("ops and recovery", () => {
  it("ops cover the tokens in ascending order, no rank ever above its bound or its room", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2000 }),
        weightLists,
        fc.integer({ min: 5, max: 300 }),
        fc.array(fc.integer({ min: 0, max: 500 }), { minLength: 8, maxLength: 8 }),
        layouts,
        (count, weights, tokensPerRank, spare, layout) => {
          const worldSize = weights.length;
          const room = weights.map((_, rank) => (rank === 0 ? count : spare[rank]!));
          const ops = planRecovery({ tokens: span(7, count), worldSize, layout, weights, room, tokensPerRank });
          let next = 7;
          const taken = weights.map(() => 0);
          for (const op of ops) {
            const positions = sorted(op.flatMap((ranges) => [...positionsOf(ranges)]));
            expect(positions).toEqual([...positionsOf(span(next, positions.length))]);
            next += positions.length;
            for (const [rank, shard] of op.entries()) {
              expect(tokenCount(shard)).toBeLessThanOrEqual(tokensPerRank);
              taken[rank]! += tokenCount(shard);
            }
          }
          expect(next).toBe(7 + count);
          for (const [rank, tokens] of taken.entries()) expect(tokens).toBeLessThanOrEqual(room[rank]!);
        },
      ),
    );
  });

  it("ops are few and of one size: the fastest rank's share is what is bounded", () => {
    const ops = planRecovery({
      tokens: span(0, 1000),
      worldSize: 3,
      layout: "zigzag",
      weights: [2, 1, 1],
      tokensPerRank: 100,
    });
    expect(ops.map((op) => tokenCount(op.flat()))).toEqual([200, 200, 200, 200, 200]);
    expect(ops[0]!.map(tokenCount)).toEqual([100, 50, 50]);
    const uneven = planRecovery({ tokens: span(0, 410), worldSize: 2, layout: "striped", tokensPerRank: 100 });
    expect(uneven.map((op) => tokenCount(op.flat()))).toEqual([137, 137, 136]);
    const { rest } = planNextOp({ tokens: span(0, 410), worldSize: 2, layout: "striped", tokensPerRank: 100 });
    expect(rest).toEqual(span(137, 273));
  });

  it("recovers what nobody holds, within the room of those who are left", () => {
    const shards = shardTokens({ count: 1000, worldSize: 4, layout: "striped" });
    const left = shards.filter((_, rank) => rank !== 2);
    const room = [100, 120, 60];
    const tokens = missingFrom(1000, left);
    const ops = planRecovery({ tokens, worldSize: 3, layout: "zigzag", weights: [2, 1, 1], room, tokensPerRank: 64 });
    expect(ops.length).toBeGreaterThan(1);
    const taken = [0, 1, 2].map((rank) => ops.flatMap((op) => op[rank]!));
    for (const [rank, ranges] of taken.entries()) expect(tokenCount(ranges)).toBeLessThanOrEqual(room[rank]!);
    const now = left.map((ranges, rank) => [...ranges, ...taken[rank]!]);
    expect(missingFrom(1000, now)).toEqual([]);
    expect(overlapOf(now)).toEqual([]);
    let reached = -1;
    for (const op of ops) {
      const positions = sorted(op.flatMap((ranges) => [...positionsOf(ranges)]));
      expect(positions[0]).toBeGreaterThan(reached);
      reached = positions.at(-1)!;
    }
    expect(() => planRecovery({ tokens, worldSize: 3, layout: "zigzag", room: [1, 2, 3], tokensPerRank: 64 })).toThrow(
      PeerError,
    );
  });

  it("the next token goes where there is most room, to the lower of equals", () => {
    expect(planKeeper([5, 9, 9])).toBe(1);
    expect(planKeeper([0, 0.5, 1])).toBe(2);
    expect(() => planKeeper([0, 0])).toThrow(PeerError);
  });
});

describe("moves to one who joins", () => {
  it("even out what is held, from those who have more, bounded, and lose nothing", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 0, max: 400 }),
        fc.integer({ min: 1, max: 400 }),
        layouts,
        (sizes, room, mostTokens, layout) => {
          const total = sizes.reduce((a, b) => a + b, 0);
          const shards = planShards({ tokens: span(0, total), worldSize: sizes.length, layout, room: sizes });
          const held = [...shards, []];
          const joiner = sizes.length;
          const moves = planMoves({ held, joiner, room, mostTokens });
          const moved = moves.flatMap(({ ranges }) => ranges);
          expect(tokenCount(moved)).toBeLessThanOrEqual(Math.min(room, mostTokens, Math.ceil(total / (joiner + 1))));
          expect(positionCount(moved)).toBe(tokenCount(moved));
          for (const { from, to, ranges } of moves) {
            expect(to).toBe(joiner);
            const own = new Set(positionsOf(held[from]!));
            for (const at of positionsOf(ranges)) expect(own.has(at)).toBe(true);
            expect(own.size - tokenCount(ranges)).toBeGreaterThanOrEqual(Math.floor(total / (joiner + 1)));
          }
          if (room >= total && mostTokens >= total && total > joiner)
            expect(tokenCount(moved)).toBeGreaterThanOrEqual(Math.floor(total / (joiner + 1)));
        },
      ),
    );
  });

  it("are cut into pieces that one parcel carries", () => {
    const move = { from: 0, to: 2, ranges: [...span(0, 25), { start: 40, stride: 2, count: 3 }] };
    const pieces = cutMove(move, 10);
    expect(pieces.map(({ ranges }) => tokenCount(ranges))).toEqual([10, 10, 8]);
    expect(pieces.flatMap(({ ranges }) => [...positionsOf(ranges)])).toEqual([...positionsOf(move.ranges)]);
  });
});

describe("speeds", () => {
  it("start alike, follow measurements smoothly, and believe nobody without bounds", () => {
    const speeds = new PeerSpeeds();
    expect(speeds.weightsOf(["a", "b"])).toEqual([1, 1]);
    speeds.record("a", 1e9, 100);
    expect(speeds.weightsOf(["a", "b"])).toEqual([1e10, 1e10]);
    expect(speeds.knows(["a", "b"])).toBe(false);
    for (let i = 0; i < 12; i++) speeds.record("b", 1e9, 2000);
    const [a, b] = speeds.weightsOf(["a", "b"]);
    expect(a! / b!).toBeCloseTo(20, 5);
    speeds.record("a", 1e9, 200);
    expect(speeds.speedOf("a")).toBeGreaterThan(5e9);
    expect(speeds.speedOf("a")).toBeLessThan(1e10);
    speeds.record("liar", Number.MAX_VALUE, 2);
    speeds.record("liar", 1, Number.NaN);
    speeds.record("tiny", 1e9, 0.01);
    expect(speeds.speedOf("tiny")).toBeUndefined();
    speeds.record("liar", 1e300, 5);
    expect(speeds.speedOf("liar")).toBeUndefined();
    speeds.record("liar", 1e14, 5);
    const weights = speeds.weightsOf(["a", "b", "liar"]);
    expect(weights[2]! / weights[0]!).toBeLessThanOrEqual(64);
    speeds.forget("a");
    expect(speeds.speedOf("a")).toBeUndefined();
  });
});
