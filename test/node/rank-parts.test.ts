/** The pure parts of a rank's attention: merges of partial answers, sets of positions, pages, blocks as parcels, plans. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LinkError, ShapeError } from "../../src/errors.ts";
import { referenceAttention } from "../../src/reference/attention.ts";
import { blockTable, type ExpectedBlock, mostBlockBytes, parseBlock } from "../../src/ring/block-parcel.ts";
import { pageCapacities, placeTokens } from "../../src/ring/filling-page.ts";
import { PositionList } from "../../src/ring/kv-page.ts";
import { mergePartials } from "../../src/ring/merge-partials.ts";
import { isSamePositions, listPositions, sortedPositions, toRanges } from "../../src/ring/positions.ts";
import type { PartialAttention, RingPlace } from "../../src/ring/rank-types.ts";
import { planRing } from "../../src/ring/ring-plan.ts";
import { isVisible } from "../../src/ring/schedule.ts";
import { positionsOf } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";
import { seededRandom } from "../attention-harness.ts";

const run = (start: number, count: number): TokenRange => ({ start, stride: 1, count });

describe("mergePartials", () => {
  const [heads, headDim, count, keys] = [3, 4, 2, 24];
  const random = seededRandom(3);
  const fill = (length: number) => Float64Array.from({ length }, () => random() * 1.7);
  const [query, key, value] = [
    fill(count * heads * headDim),
    fill(keys * heads * headDim),
    fill(keys * heads * headDim),
  ];
  /** Attention over some of the keys only, as f32. */
  const over = (sees: (key: number) => boolean): PartialAttention => {
    const { output, lse } = referenceAttention(query, key, value, {
      ...{ batch: 1, seqLen: count, kvSeqLen: keys, heads, kvHeads: heads, headDim, valueDim: headDim },
      mask: (_b, _h, _t, s) => (sees(s) ? 0 : Number.NEGATIVE_INFINITY),
    });
    return { output: Float32Array.from(output), lse: Float32Array.from(lse) };
  };
  const whole = over(() => true);
  const merge = (a: PartialAttention, b: PartialAttention) => mergePartials(a, b, heads, headDim);
  const differs = (a: PartialAttention, b: PartialAttention) =>
    Math.max(
      ...(["output", "lse"] as const).flatMap((name) =>
        [...a[name]].map((x, i) => (x === b[name][i] ? 0 : Math.abs(x - b[name][i]!))),
      ),
    );

  it("gives the whole attention from any parts, in any order and grouping, empty parts among them", () => {
    const owners = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: keys, maxLength: keys });
    fc.assert(
      fc.property(owners, fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6], { minLength: 7 }), (owner, order) => {
        const parts = order.map((rank) => over((s) => owner[s] === rank));
        const chained = parts.reduce(merge);
        const byPairs = (list: PartialAttention[]): PartialAttention =>
          list.length === 1
            ? list[0]!
            : merge(byPairs(list.slice(0, list.length >> 1)), byPairs(list.slice(list.length >> 1)));
        for (const merged of [chained, byPairs(parts)]) expect(differs(merged, whole)).toBeLessThan(2e-6);
        expect(differs(merge(parts[0]!, parts[1]!), merge(parts[1]!, parts[0]!))).toBeLessThan(1e-7);
      }),
    );
  });

  it("of nothing with nothing is nothing, and what a side that saw nothing says does not count", () => {
    const nothing = over(() => false);
    expect(merge(nothing, nothing)).toEqual({
      output: new Float32Array(count * heads * headDim),
      lse: new Float32Array(count * heads).fill(Number.NEGATIVE_INFINITY),
    });
    const garbage = { ...nothing, output: nothing.output.map(() => Number.NaN) };
    expect(merge(whole, garbage)).toEqual(whole);
    expect(merge(garbage, whole)).toEqual(whole);
  });

  it("refuses answers of different shapes", () => {
    expect(() => merge(whole, { ...whole, lse: new Float32Array(3) })).toThrow(
      new ShapeError("mergePartials: expected two answers of [n, 3, 4] with lse [3, n], got 24 with 6 and 24 with 3"),
    );
  });
});

describe("positions", () => {
  const sets = fc.uniqueArray(fc.integer({ min: 0, max: 200 }), { maxLength: 60 });

  it("are the same as ranges, in their order", () => {
    fc.assert(
      fc.property(sets, (positions) => {
        const ranges = toRanges(positions);
        expect([...listPositions(ranges)]).toEqual(positions);
        const sorted = sortedPositions("test", ranges);
        expect([...sorted]).toEqual([...positions].sort((a, b) => a - b));
        expect(isSamePositions(ranges, sorted)).toBe(true);
        if (positions.length > 0) {
          expect(isSamePositions(ranges.slice(1), sorted)).toBe(false);
          expect(isSamePositions([...ranges, run(positions[0]!, 1)], sorted)).toBe(false);
          expect(() => sortedPositions("test", [...ranges, run(positions[0]!, 1)])).toThrow(
            `test: expected each position once, got ${positions[0]} twice`,
          );
        }
      }),
    );
  });

  it("go to pages so that they ascend within each, none is lost, and no page is added while one will do", () => {
    fc.assert(
      fc.property(sets, fc.integer({ min: 1, max: 9 }), (positions, pageSize) => {
        const { placements, missingPages } = placeTokens([], toRanges(positions), pageSize);
        const pages: number[][] = Array.from({ length: missingPages }, () => []);
        let first = 0;
        for (const placement of placements) {
          expect([placement.row, placement.first]).toEqual([pages[placement.page]!.length, first]);
          const placed = [...positionsOf([placement.range])];
          expect(placed).toEqual(positions.slice(first, first + placed.length));
          pages[placement.page]!.push(...placed);
          first += placed.length;
        }
        expect(first).toBe(positions.length);
        for (const page of pages) {
          expect(page.length).toBeGreaterThan(0);
          expect(page.length).toBeLessThanOrEqual(pageSize);
          expect(page).toEqual([...page].sort((a, b) => a - b));
        }
        const ascending = placeTokens([], toRanges([...positions].sort((a, b) => a - b)), pageSize);
        expect(ascending.missingPages).toBe(Math.ceil(positions.length / pageSize));
      }),
    );
  });

  it("take pages of the usual size, and in the end no more than what was foreseen", () => {
    const reserves = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(reserves, fc.integer({ min: 1, max: 16 }), (tokens, pageSize) => {
        const total = tokens.reduce((sum, count) => sum + count, 0);
        let [held, capacity] = [0, 0];
        for (const count of tokens) {
          const pages = pageCapacities(held + count - capacity, pageSize, total - capacity);
          for (const page of pages) expect(page).toBeLessThanOrEqual(pageSize);
          capacity += pages.reduce((sum, page) => sum + page, 0);
          held += count;
          expect(capacity).toBeGreaterThanOrEqual(held);
        }
        expect(capacity).toBe(total);
        expect(pageCapacities(total, pageSize)).toEqual(Array(Math.ceil(total / pageSize)).fill(pageSize));
        // More came than was foreseen.
        expect(pageCapacities(1, pageSize, 0)).toEqual([pageSize]);
        const more = pageCapacities(total + 1, pageSize, total).reduce((sum, page) => sum + page, 0);
        expect(more).toBeGreaterThan(total);
      }),
    );
  });

  it("of a page that is cut short say start and stride exactly where those say it all", () => {
    fc.assert(
      fc.property(sets, sets, fc.nat(60), (first, second, keep) => {
        const list = new PositionList(200);
        const push = (positions: readonly number[]) => {
          for (const range of toRanges(positions)) list.push(range);
        };
        const ascending = [...first].sort((a, b) => a - b);
        push(ascending);
        list.truncate(keep);
        const kept = ascending.slice(0, keep);
        const more = second.filter((position) => position > (kept.at(-1) ?? -1)).sort((a, b) => a - b);
        push(more);
        const all = [...kept, ...more];
        expect([...list.since(0)]).toEqual(all);
        if (all.length === 0) return;
        const stride = all.length > 1 ? all[1]! - all[0]! : 1;
        const isEven = all.every((position, index) => position === all[0]! + index * stride);
        expect(list.affine).toEqual(isEven ? { start: all[0], stride } : undefined);
      }),
    );
  });
});

describe("a block as a parcel", () => {
  const expected = (positions: readonly number[], bytesPerElement: 2 | 4 = 4): ExpectedBlock => ({
    ...{ owner: 2, keyWidth: 3, valueWidth: 1, bytesPerElement },
    positions: Uint32Array.from(positions).sort(),
  });
  const pack = (pages: readonly (readonly TokenRange[])[], block: ExpectedBlock) => {
    const table = blockTable(2, block.bytesPerElement, pages);
    const bytes = new Uint8Array(table.byteLength + block.positions.length * 4 * block.bytesPerElement);
    bytes.set(table);
    return bytes;
  };
  const pages = fc
    .uniqueArray(fc.integer({ min: 0, max: 90 }), { minLength: 1, maxLength: 30 })
    .chain((positions) =>
      fc.record({ positions: fc.constant(positions), cut: fc.integer({ min: 1, max: positions.length }) }),
    );

  it("comes out as it went in: every position once, its rows where they lie", () => {
    fc.assert(
      fc.property(pages, fc.integer({ min: 1, max: 7 }), fc.boolean(), ({ positions, cut }, pageSize, isHalf) => {
        const block = expected(positions, isHalf ? 2 : 4);
        const parts = [positions.slice(0, cut), positions.slice(cut)].filter((part) => part.length > 0);
        const tables = parts.map((part) => toRanges(part.sort((a, b) => a - b)));
        const bytes = pack(tables, block);
        expect(bytes.byteLength).toBeLessThanOrEqual(mostBlockBytes(block));
        const parsed = parseBlock(bytes, block, pageSize, "a peer");
        expect([parsed.kvRank, parsed.tokenCount]).toEqual([2, positions.length]);
        const came = parsed.pages.flatMap((page) => {
          const { count, minPosition, maxPosition } = page;
          expect(count).toBeLessThanOrEqual(pageSize);
          const list =
            page.memory === "host" && page.positions instanceof Uint32Array
              ? [...page.positions]
              : [...positionsOf([{ ...(page.positions as { start: number; stride: number }), count }])];
          expect([list[0], list.at(-1)]).toEqual([minPosition, maxPosition]);
          return list;
        });
        expect(came).toEqual(tables.flatMap((ranges) => [...positionsOf(ranges)]));
      }),
    );
  });

  it("of mangled bytes is refused as a violation, or is the block of the plan all the same", () => {
    const mangles = fc.array(fc.tuple(fc.nat(200), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(pages, mangles, fc.integer({ min: -9, max: 9 }), ({ positions }, changes, longer) => {
        const block = expected(positions);
        const good = pack([toRanges([...block.positions])], block);
        const bytes = new Uint8Array(Math.max(0, good.byteLength + longer));
        bytes.set(good.subarray(0, bytes.byteLength));
        for (const [at, byte] of changes) if (at < bytes.byteLength) bytes[at] = byte;
        try {
          const parsed = parseBlock(bytes, block, 8, "a peer");
          expect(parsed.pages.reduce((sum, page) => sum + page.count, 0)).toBe(positions.length);
          expect(bytes.byteLength).toBeGreaterThanOrEqual(positions.length * 16);
        } catch (error) {
          expect(error).toBeInstanceOf(LinkError);
          expect((error as LinkError).why).toBe("violation");
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe("the plan of a pass", () => {
  it("lets everything come by that a query may see, and nothing go where nobody looks at it", () => {
    const tokens = fc.array(fc.tuple(fc.integer({ min: 0, max: 3 }), fc.boolean()), { minLength: 1, maxLength: 40 });
    const rules = fc.record({
      isCausal: fc.boolean(),
      window: fc.constantFrom(undefined, 1, 6),
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), tokens, rules, (worldSize, owners, rule) => {
        const pick = (test: (owner: number, isQuery: boolean) => boolean) =>
          toRanges(
            owners.flatMap(([owner, isQuery], position) => (test(owner % worldSize, isQuery) ? [position] : [])),
          );
        const ranks = [...Array(worldSize).keys()];
        const held = ranks.map((rank) => pick((owner) => owner === rank));
        const queries = ranks.map((rank) => pick((owner, isQuery) => owner === rank && isQuery));
        const plan = planRing("test", { worldSize, queries, held } as unknown as RingPlace, rule);
        for (const owner of ranks)
          for (const reader of ranks) {
            if (owner === reader) continue;
            const travelling = new Set(plan.travelling(owner));
            const pairs = [...positionsOf(queries[reader]!)].flatMap((query) =>
              [...positionsOf(held[owner]!)].filter((key) => isVisible(query, key, rule)).map((key) => ({ key })),
            );
            // What is seen travels, over every link on the way.
            for (const { key } of pairs) expect(travelling.has(key)).toBe(true);
            if (pairs.length > 0) {
              expect(plan.sees(reader, owner)).toBe(true);
              for (let to = (owner + 1) % worldSize; ; to = (to + 1) % worldSize) {
                expect(plan.hasBlock(owner, to)).toBe(true);
                if (to === reader) break;
              }
              for (let to = (reader + 1) % worldSize; ; to = (to + 1) % worldSize) {
                expect(plan.hasQuery(reader, to)).toBe(true);
                if (to === owner) break;
              }
              for (let to = (owner + 1) % worldSize; ; to = (to + 1) % worldSize) {
                expect(plan.hasState(reader, to)).toBe(true);
                if (to === reader) break;
              }
            }
          }
        for (const owner of ranks) {
          // The way ends at its owner, and nobody's queries are shown anything by ranks that hold nothing.
          expect([plan.hasBlock(owner, owner), plan.hasQuery(owner, owner)]).toEqual([false, false]);
          if (queries[owner]!.length === 0) expect(ranks.some((rank) => plan.hasQuery(owner, rank))).toBe(false);
          if (held[owner]!.length === 0) expect(ranks.some((rank) => plan.hasBlock(owner, rank))).toBe(false);
        }
      }),
    );
  });

  it("of a contiguous causal ring sends no block to those who come before it", () => {
    const held = [run(0, 8), run(8, 8), run(16, 8)];
    const place = { worldSize: 3, queries: held.map((range) => [range]), held: held.map((range) => [range]) };
    const plan = planRing("test", place as unknown as RingPlace, { isCausal: true });
    const hops = [0, 1, 2].map((owner) => [0, 1, 2].filter((rank) => plan.hasBlock(owner, rank)));
    expect(hops).toEqual([[1, 2], [2], []]);
  });
});
