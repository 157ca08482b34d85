import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/errors.ts";
import {
  isVisible,
  kvRankAt,
  type MaskRule,
  recvRank,
  ringSchedule,
  sendRank,
  visiblePairs,
  workPerRank,
} from "../../src/ring/schedule.ts";
import { cutRanges, positionsOf, shardTokens, tokenCount } from "../../src/ring/shard.ts";
import type { RingLayout } from "../../src/ring/types.ts";

const layouts: RingLayout[] = ["contiguous", "zigzag", "striped"];
const layout = fc.constantFrom(...layouts);
const worldSize = fc.integer({ min: 1, max: 64 });
const rule: fc.Arbitrary<MaskRule> = fc.oneof(
  fc.constant({}),
  fc.constant({ isCausal: true }),
  fc.record({ isCausal: fc.constant(true), causalBlockSize: fc.integer({ min: 1, max: 40 }) }),
  fc.record({ isCausal: fc.boolean(), window: fc.integer({ min: 1, max: 50 }) }),
  fc.record({
    isCausal: fc.constant(true),
    causalBlockSize: fc.integer({ min: 1, max: 20 }),
    window: fc.integer({ min: 1, max: 50 }),
  }),
);

/** The mask as the words of AttentionOptions say it, for one pair. */
function maySee(query: number, key: number, mask: MaskRule): boolean {
  const block = mask.causalBlockSize ?? 1;
  if (mask.isCausal && Math.floor(key / block) > Math.floor(query / block)) return false;
  if (mask.window !== undefined && query - key >= mask.window) return false;
  if (mask.window !== undefined && !mask.isCausal && key - query >= mask.window) return false;
  return true;
}

describe("shardTokens", () => {
  it("gives every token to exactly one rank, ascending, give or take one equally many, across any chunks", () => {
    fc.assert(
      fc.property(worldSize, layout, fc.array(fc.integer({ min: 0, max: 90 }), { maxLength: 6 }), (n, kind, chunks) => {
        const held: number[][] = Array.from({ length: n }, () => []);
        let start = 0;
        for (const count of chunks) {
          const shards = shardTokens({ start, count, worldSize: n, layout: kind });
          for (const [rank, ranges] of shards.entries()) held[rank]!.push(...positionsOf(ranges));
          start += count;
        }
        expect(held.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: start }, (_, position) => position));
        for (const positions of held) {
          for (let i = 1; i < positions.length; i++) expect(positions[i]).toBeGreaterThan(positions[i - 1]!);
          expect(Math.abs(positions.length - start / n)).toBeLessThan(1);
        }
      }),
    );
  });

  it("lays out the three layouts as their papers do", () => {
    const shards = (kind: RingLayout) =>
      shardTokens({ count: 8, worldSize: 2, layout: kind }).map((ranges) => [...positionsOf(ranges)]);
    expect(shards("contiguous")).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
    ]);
    expect(shards("zigzag")).toEqual([
      [0, 1, 6, 7],
      [2, 3, 4, 5],
    ]);
    expect(shards("striped")).toEqual([
      [0, 2, 4, 6],
      [1, 3, 5, 7],
    ]);
  });

  it("continues a stripe across chunks", () => {
    const second = shardTokens({ start: 5, count: 4, worldSize: 3, layout: "striped" });
    expect(second.map((ranges) => [...positionsOf(ranges)])).toEqual([[6], [7], [5, 8]]);
  });

  it("refuses what is not a ring", () => {
    expect(() => shardTokens({ count: 4, worldSize: 65, layout: "zigzag" })).toThrow(
      new OptionError("shardTokens: expected worldSize to be an integer from 1 to 64, got 65"),
    );
    expect(() => shardTokens({ count: 4, worldSize: 2, layout: "spiral" as RingLayout })).toThrow(OptionError);
  });

  it("cuts ranges without losing a token", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 100 }),
        worldSize,
        layout,
        fc.integer({ min: 1, max: 9 }),
        (count, n, kind, most) => {
          for (const ranges of shardTokens({ start: 3, count, worldSize: n, layout: kind })) {
            const pieces = cutRanges(ranges, most);
            expect([...positionsOf(pieces)]).toEqual([...positionsOf(ranges)]);
            expect(Math.max(0, ...pieces.map((piece) => piece.count))).toBeLessThanOrEqual(most);
          }
        },
      ),
    );
  });
});

describe("the schedule", () => {
  it("follows the ring: what is sent is what the next rank meets in the next step", () => {
    for (const n of [1, 2, 3, 4, 7, 8, 64])
      for (let rank = 0; rank < n; rank++) {
        expect(kvRankAt(rank, 0, n)).toBe(rank);
        expect(recvRank(sendRank(rank, n), n)).toBe(rank);
        for (let step = 0; step + 1 < n; step++)
          expect(kvRankAt(sendRank(rank, n), step + 1, n)).toBe(kvRankAt(rank, step, n));
      }
  });

  it("meets every (query, key) pair that the mask allows exactly once", () => {
    const tokens = fc.integer({ min: 0, max: 70 });
    fc.assert(
      fc.property(
        worldSize,
        layout,
        tokens,
        tokens,
        rule,
        fc.integer({ min: 0, max: 30 }),
        (n, kind, T, S, mask, offset) => {
          const queries = shardTokens({ start: offset, count: T, worldSize: n, layout: kind });
          const kv = shardTokens({ count: S, worldSize: n, layout: kind });
          const met = new Map<string, number>();
          for (const { rank, kvRank, isSkipped } of ringSchedule(queries, kv, mask)) {
            if (isSkipped) continue;
            for (const query of positionsOf(queries[rank]!))
              for (const key of positionsOf(kv[kvRank]!))
                if (isVisible(query, key, mask)) met.set(`${query} ${key}`, (met.get(`${query} ${key}`) ?? 0) + 1);
          }
          let allowed = 0;
          for (let query = offset; query < offset + T; query++)
            for (let key = 0; key < S; key++) {
              const isAllowed = maySee(query, key, mask);
              if (isAllowed) allowed++;
              if ((met.get(`${query} ${key}`) ?? 0) !== (isAllowed ? 1 : 0))
                throw new Error(`query ${query}, key ${key}: allowed ${isAllowed}, met ${met.get(`${query} ${key}`)}`);
            }
          expect(workPerRank(queries, kv, mask).reduce((sum, work) => sum + work, 0)).toBe(allowed);
        },
      ),
      { numRuns: 150 },
    );
  });

  it("skips the causal blocks that see nothing: half of a contiguous ring, less the diagonal", () => {
    const shards = shardTokens({ count: 80, worldSize: 8, layout: "contiguous" });
    const skipped = ringSchedule(shards, shards, { isCausal: true }).filter((entry) => entry.isSkipped);
    expect(skipped).toHaveLength((8 * 7) / 2);
    expect(skipped.every(({ rank, kvRank }) => kvRank > rank)).toBe(true);
    const windowed = ringSchedule(shards, shards, { isCausal: true, window: 11 }).filter((entry) => !entry.isSkipped);
    expect(windowed).toHaveLength(8 + 7);
    expect(visiblePairs(shards[0]!, shards[1]!, { isCausal: true })).toBe(0);
  });

  it("keeps causal work per rank within 5% of even under zigzag and striped", () => {
    for (const kind of ["zigzag", "striped"] as const)
      for (const n of [2, 3, 4, 7, 8, 16, 64])
        for (const count of [n * 50 + 1, 5000]) {
          const shards = shardTokens({ count, worldSize: n, layout: kind });
          const work = workPerRank(shards, shards, { isCausal: true });
          const even = work.reduce((sum, pairs) => sum + pairs, 0) / n;
          for (const pairs of work) expect(Math.abs(pairs / even - 1), `${kind} ${n} ${count}`).toBeLessThan(0.05);
          expect(tokenCount(shards.flat())).toBe(count);
        }
  });

  it("keeps a prefill chunk's causal work within 5% of even against all that came before it", () => {
    for (const kind of ["zigzag", "striped"] as const)
      for (const n of [2, 4, 7]) {
        const chunk = 512;
        const held = Array.from({ length: n }, () => [] as ReturnType<typeof shardTokens>[number]);
        for (let start = 0; start < 4 * chunk; start += chunk) {
          const queries = shardTokens({ start, count: chunk, worldSize: n, layout: kind });
          for (const [rank, ranges] of queries.entries()) held[rank]!.push(...ranges);
          const work = workPerRank(queries, held, { isCausal: true });
          const even = work.reduce((sum, pairs) => sum + pairs, 0) / n;
          for (const pairs of work) expect(Math.abs(pairs / even - 1), `${kind} ${n} ${start}`).toBeLessThan(0.05);
        }
      }
  });
});
