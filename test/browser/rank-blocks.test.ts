/** What a rank's block can do beside being met: be rolled back, thinned out, copied out and in, and answer alone. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OptionError, ShapeError } from "../../src/errors.ts";
import { release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { mergePartials } from "../../src/ring/merge-partials.ts";
import type { PartialAttention } from "../../src/ring/rank-types.ts";
import { createRingAttention } from "../../src/ring/ring-attention.ts";
import { positionsOf, shardTokens, tokenCount } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";
import { expectClose } from "../attention-harness.ts";
import { RankWorld, sequence } from "./rank-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

const run = (start: number, count: number): TokenRange => ({ start, stride: 1, count });
const { signal } = new AbortController();

/** The rank's block holds exactly these positions, and their K/V. */
async function expectHeld(world: RankWorld, rank: number, ranges: readonly TokenRange[]): Promise<void> {
  const block = world.blocks[rank]!;
  const positions = [...positionsOf(ranges)].sort((a, b) => a - b);
  expect([...positionsOf(block.ranges)]).toEqual(positions);
  expect(block.tokenCount).toBe(positions.length);
  expect([block.minPosition, block.maxPosition]).toEqual([positions[0] ?? -1, positions.at(-1) ?? -1]);
  const sorted = positions.map((position) => run(position, 1));
  const { key, value } = await block.readTokens(sorted, signal);
  expect(new Float32Array(key.buffer)).toEqual(world.rows("key", sorted));
  expect(new Float32Array(value.buffer)).toEqual(world.rows("value", sorted));
}

describe("a block whose tokens come in any order", () => {
  it("is rolled back to a mark, again and again, and goes on from there", async () => {
    const world = await RankWorld.open(device, sequence(60), 1);
    const [block] = world.blocks;
    const empty = block!.mark();
    await world.append(0, [run(20, 7), { start: 40, stride: 3, count: 4 }]);
    const mark = block!.mark();
    for (const more of [[run(0, 9)], [{ start: 27, stride: 2, count: 6 }, run(50, 1)], []]) {
      await world.append(0, more);
      block!.rollback(mark);
      await expectHeld(world, 0, [run(20, 7), { start: 40, stride: 3, count: 4 }]);
    }
    // What was cut off is written over, lists of positions on the GPU too.
    world.held[0] = [run(20, 7), { start: 40, stride: 3, count: 4 }];
    await world.append(0, [run(0, 12), run(55, 2), run(58, 2)]);
    await world.attend([[run(59, 1)]]);
    world.check([run(59, 1)]);
    block!.rollback(empty);
    await expectHeld(world, 0, []);
    const { gpuBytes } = block!;
    expect(gpuBytes).toBeGreaterThan(0);
    block!.trim();
    expect(block!.gpuBytes).toBe(0);
    world.destroy();
  });

  it("loses any of its tokens, and attention sees the rest", async () => {
    const scattered = fc.array(fc.integer({ min: 0, max: 39 }), { maxLength: 40 });
    const order = fc.shuffledSubarray([...Array(8).keys()], { minLength: 8 });
    await fc.assert(
      fc.asyncProperty(order, scattered, scattered, async (runs, first, second) => {
        const world = await RankWorld.open(device, sequence(40), 1, { pageSize: 4 });
        await world.append(
          0,
          runs.map((index) => run(5 * index, 5)),
        );
        let left = [...Array(40).keys()];
        for (const gone of [first, second]) {
          await world.blocks[0]!.drop(gone.map((position) => run(position, 1)));
          left = left.filter((position) => !gone.includes(position));
          await expectHeld(
            world,
            0,
            left.map((position) => run(position, 1)),
          );
          // No page without a token stays.
          expect(world.blocks[0]!.gpuPages.length).toBe(world.blocks[0]!.gpuBytes / (4 * (2 * 2 * 4 + 1) * 4));
        }
        world.held[0] = left.map((position) => run(position, 1));
        if (left.length > 0) {
          await world.attend([[run(39, 1)]]);
          world.check([run(39, 1)]);
        }
        world.destroy();
      }),
      { numRuns: 12 },
    );
  });

  it("gives tokens away to another block, bit by bit the same", async () => {
    const world = await RankWorld.open(device, sequence(50), 2);
    await world.append(0, [run(30, 20), run(0, 11)]);
    const moved = [{ start: 32, stride: 3, count: 5 }, run(2, 4)];
    const tokens = await world.blocks[0]!.readTokens(moved, signal);
    await world.blocks[1]!.writeTokens(moved, tokens);
    await world.blocks[0]!.drop(moved);
    await expectHeld(world, 1, moved);
    expect(tokenCount(world.blocks[0]!.ranges)).toBe(31 - 9);
    await expect(world.blocks[0]!.readTokens([run(2, 1)], signal)).rejects.toThrow(
      new OptionError("KvBlock.readTokens: K/V rank 0: expected positions that it holds, got 2"),
    );
    await expect(world.blocks[1]!.readTokens(moved, AbortSignal.abort(new Error("enough")))).rejects.toThrow("enough");
    world.held[0] = [...world.blocks[0]!.ranges];
    world.held[1] = [...world.blocks[1]!.ranges];
    await world.attend([[run(49, 1)], []]);
    world.check([run(49, 1)]);
    world.destroy();
  });

  it("refuses a position twice, rows that are not there, marks that are void, and what host blocks cannot do", async () => {
    const world = await RankWorld.open(device, sequence(30), 1);
    const [block] = world.blocks;
    await world.append(0, [{ start: 0, stride: 4, count: 5 }]);
    await world.append(0, [{ start: 1, stride: 4, count: 5 }]);
    await expect(world.append(0, [run(2, 3)])).rejects.toThrow(
      new OptionError("KvBlock.encodeAppend: expected positions that K/V rank 0 does not hold, got 4"),
    );
    await expect(world.append(0, [run(22, 3), run(24, 1)])).rejects.toThrow(
      "KvBlock.encodeAppend: expected each position once, got 24 twice",
    );
    const key = await upload(device, "key", new Float32Array(8));
    await expect(block!.append({ key, value: key, ranges: [run(22, 2)] })).rejects.toThrow(
      new OptionError("KvBlock.encodeAppend: expected key of 2 rows (64 bytes), got 32 bytes"),
    );
    release(key);
    const bytes = new Uint8Array(32);
    await expect(block!.writeTokens([run(22, 2)], { key: bytes, value: bytes })).rejects.toThrow(
      "KvBlock.writeTokens: expected 64 + 64 bytes of keys and values for 2 tokens, got 32 + 32",
    );
    expect(block!.tokenCount).toBe(10);
    const mark = block!.mark();
    await block!.drop([run(4, 1)]);
    expect(() => block!.rollback(mark)).toThrow(
      new OptionError("KvBlock.rollback: K/V rank 0 has lost tokens since the mark was made; make marks anew"),
    );
    world.destroy();
    const ring = await createRingAttention(device, { heads: 1, headDim: 4, blockMemory: "host", pageSize: 4 });
    const [hosted] = ring.createBlocks();
    const message = 'expected a block in GPU memory, got K/V rank 0 in host memory (blockMemory "host")';
    expect(() => hosted!.mark()).toThrow(`KvBlock.mark: ${message}`);
    await expect(hosted!.drop([])).rejects.toThrow(`KvBlock.drop: ${message}`);
    await expect(hosted!.readTokens([], signal)).rejects.toThrow(OptionError);
    ring.destroy();
  });
});

describe("answers of decode", () => {
  const c = sequence(90, { window: 40 });

  /** Answers of all ranks to two queries, and the oracle's answer. */
  async function ask(world: RankWorld, position: number, count: number, isOnGpu: boolean) {
    const rows = world.rows("query", [run(position, count)]);
    const query = isOnGpu ? await upload(device, "query", rows) : rows;
    const answers = await Promise.all(
      world.ranks.map((rank, index) => rank.answer(query, count, position, world.blocks[index]!, signal)),
    );
    if (!(query instanceof Float32Array)) release(query);
    const cut = (values: Float64Array, width: number) => values.slice(position * width, (position + count) * width);
    const of = (precision: "f64" | "f32") => {
      const { output, lse } = world.oracle(precision);
      const rowsOf = Array.from({ length: c.heads }, (_, head) =>
        lse.slice(head * c.seqLen + position, head * c.seqLen + position + count),
      );
      return { output: cut(output, c.heads * c.headDim), lse: Float64Array.from(rowsOf.flatMap((row) => [...row])) };
    };
    return { answers, want: of("f64"), plain: of("f32") };
  }

  it.each([
    ["from the host", false, 1],
    ["from the GPU", true, 2],
  ] as const)("merged in any order they are the oracle's, the query %s", async (_, isOnGpu, count) => {
    const world = await RankWorld.open(device, c, 5);
    // Rank 3 holds nothing, rank 0 only what the window hides by then.
    const shards = shardTokens({ start: 20, count: 70, worldSize: 3, layout: "striped" });
    for (const [rank, ranges] of [[run(0, 20)], shards[0]!, shards[1]!, [], shards[2]!].entries())
      await world.append(rank, ranges);
    const { answers, want, plain } = await ask(world, 88, count, isOnGpu);
    for (const empty of [answers[0]!, answers[3]!]) {
      expect(empty.output).toEqual(new Float32Array(count * 16));
      expect([...empty.lse].every((x) => x === Number.NEGATIVE_INFINITY)).toBe(true);
    }
    const merge = (a: PartialAttention, b: PartialAttention) => mergePartials(a, b, c.heads, c.headDim);
    for (const order of [
      [0, 1, 2, 3, 4],
      [4, 3, 2, 1, 0],
      [3, 1, 4, 0, 2],
    ])
      expectClose(order.map((rank) => answers[rank]!).reduce(merge), want, plain, "f32");
    // Asked again, nothing more is taken.
    const before = ledgerOf(device).total.bytes;
    await ask(world, 88, count, false);
    expect(ledgerOf(device).total.bytes).toBe(before);
    world.destroy();
  });

  it("many at once, aborted ones among them, leave nothing behind", async () => {
    const before = ledgerOf(device).total.bytes;
    const world = await RankWorld.open(device, c, 1);
    await world.append(0, [run(0, 90)]);
    const query = world.rows("query", [run(89, 1)]);
    const reason = new Error("enough");
    const asked = Array.from({ length: 12 }, (_, index) => {
      const controller = new AbortController();
      const answer = world.ranks[0]!.answer(query, 1, 89, world.blocks[0]!, controller.signal);
      if (index % 3 === 0) queueMicrotask(() => controller.abort(reason));
      return answer;
    });
    const settled = await Promise.allSettled(asked);
    const outputs = settled.map((one) => (one.status === "fulfilled" ? [...one.value.output].join() : one.reason));
    expect(outputs.filter((_, index) => index % 3 === 0).every((one) => one === reason)).toBe(true);
    expect(new Set(outputs.filter((_, index) => index % 3 !== 0)).size).toBe(1);
    await expect(world.ranks[0]!.answer(query, 2, 88, world.blocks[0]!, signal)).rejects.toThrow(
      new ShapeError("RankAttention.answer: expected query of 32 elements, got 16"),
    );
    await device.queue.onSubmittedWorkDone();
    world.destroy();
    await expect.poll(() => ledgerOf(device).total.bytes).toBe(before);
  });
});
