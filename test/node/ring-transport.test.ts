import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { untilAborted } from "../../src/ring/abort.ts";
import { type KvPage, PositionList, type RingBlock } from "../../src/ring/kv-page.ts";
import { kvRankAt } from "../../src/ring/schedule.ts";
import { cutRanges, positionsOf, shardTokens } from "../../src/ring/shard.ts";
import { createLocalTransport } from "../../src/ring/transport-local.ts";

const block = (kvRank: number): RingBlock => ({ kvRank, tokenCount: 0, pages: [] });

describe("the local transport", () => {
  const signal = new AbortController().signal;

  it("hands every block to every rank, as the schedule says, whoever posts first", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 64 }).chain((n) => fc.shuffledSubarray([...Array(n).keys()], { minLength: n })),
        async (order) => {
          const worldSize = order.length;
          const pass = createLocalTransport().beginPass(worldSize, signal);
          let held = pass.ranks.map(block);
          for (let step = 1; step < worldSize; step++) {
            const arriving: Promise<RingBlock>[] = [];
            for (const rank of order) arriving[rank] = pass.sendRecv(rank, held[rank]!);
            held = await Promise.all(arriving);
            expect(held.map(({ kvRank }) => kvRank)).toEqual(pass.ranks.map((rank) => kvRankAt(rank, step, worldSize)));
          }
        },
      ),
      { numRuns: 30 },
    );
  });

  it("keeps passes apart", async () => {
    const transport = createLocalTransport();
    const [one, two] = [transport.beginPass(2, signal), transport.beginPass(2, signal)];
    const fromOne = [one.sendRecv(0, block(0)), one.sendRecv(1, block(1))];
    const fromTwo = [two.sendRecv(0, block(10)), two.sendRecv(1, block(11))];
    expect((await Promise.all(fromTwo)).map(({ kvRank }) => kvRank)).toEqual([11, 10]);
    expect((await Promise.all(fromOne)).map(({ kvRank }) => kvRank)).toEqual([1, 0]);
  });

  it("refuses pages that are not on the GPU", () => {
    const page = { memory: "host", count: 1 } as KvPage;
    expect(() => createLocalTransport().beginPass(1, signal).bring(page)).toThrow(
      'transport-local: expected pages in GPU memory, got one in host memory; use blockMemory "host"',
    );
  });
});

describe("untilAborted", () => {
  it("settles as the promise does, or rejects with the reason at once", async () => {
    const reason = new Error("enough");
    const { signal } = new AbortController();
    expect(await untilAborted(Promise.resolve(3), signal)).toBe(3);
    await expect(untilAborted(Promise.reject(reason), signal)).rejects.toBe(reason);
    const controller = new AbortController();
    const waiting = untilAborted(new Promise(() => {}), controller.signal);
    controller.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    await expect(untilAborted(Promise.resolve(3), controller.signal)).rejects.toBe(reason);
  });
});

describe("PositionList", () => {
  it("holds what was pushed, and says start and stride exactly where those say it all", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 8 }),
        fc.constantFrom("contiguous" as const, "zigzag" as const, "striped" as const),
        fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 4 }),
        (worldSize, layout, chunks) => {
          const list = new PositionList(100);
          const pushed: number[] = [];
          let start = 0;
          for (const count of chunks) {
            for (const range of cutRanges(shardTokens({ start, count, worldSize, layout })[0]!, 7)) {
              list.push(range);
              pushed.push(...positionsOf([range]));
            }
            start += count;
          }
          expect([...list.since(0)]).toEqual(pushed);
          if (pushed.length === 0) return;
          const stride = pushed.length > 1 ? pushed[1]! - pushed[0]! : 1;
          const isEven = pushed.every((position, index) => position === pushed[0]! + index * stride);
          expect(list.affine).toEqual(isEven ? { start: pushed[0], stride } : undefined);
          expect([list.minPosition, list.maxPosition]).toEqual([pushed[0], pushed.at(-1)]);
          list.clear();
          expect(list.count).toBe(0);
        },
      ),
    );
  });
});
