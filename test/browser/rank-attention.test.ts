/** Attention of one rank over links: whole rings within one page, against the oracle. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import type { Rotation } from "../../src/ring/rank-types.ts";
import { shardTokens, tokenCount } from "../../src/ring/shard.ts";
import type { RingLayout, TokenRange } from "../../src/ring/types.ts";
import type { AttentionCase } from "../cases.ts";
import { RankWorld, sequence } from "./rank-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

const LAYOUTS: RingLayout[] = ["contiguous", "zigzag", "striped"];
const ROTATIONS: Rotation[] = ["keyValue", "query"];
const run = (start: number, count: number): TokenRange => ({ start, stride: 1, count });

/** Prefill chunk by chunk in one layout; every chunk is checked. */
async function prefill(
  c: AttentionCase,
  worldSize: number,
  layout: RingLayout,
  rotation: Rotation,
  chunks: readonly number[],
): Promise<void> {
  const world = await RankWorld.open(device, c, worldSize);
  let start = 0;
  for (const count of chunks) {
    const steps = await world.step(shardTokens({ start, count, worldSize, layout }), { rotation });
    for (const [rank, events] of steps.entries()) {
      expect(events).toHaveLength(worldSize);
      for (const [index, event] of events.entries()) {
        const other = (rank - index + worldSize) % worldSize;
        const [queryRank, kvRank] = rotation === "query" ? [other, rank] : [rank, other];
        expect(event).toMatchObject({ step: index, rank, kvRank, queryRank, rotation });
        expect(event.isSkipped).toBe(event.multiplyAdds === 0);
        if (index === 0 && worldSize > 1 && rotation === "keyValue") expect(event.receivedBytes).toBe(0);
      }
    }
    world.check([run(start, count)]);
    start += count;
  }
  world.destroy();
}

describe("chunked prefill over links equals the oracle", () => {
  const cases = [1, 2, 3, 4, 5].flatMap((worldSize) =>
    LAYOUTS.flatMap((layout) => ROTATIONS.map((rotation) => [worldSize, layout, rotation] as const)),
  );
  it.each(cases)("%i ranks, %s, %s", async (worldSize, layout, rotation) => {
    await prefill(sequence(61), worldSize, layout, rotation, [29, 1, 31]);
  });

  it.each(ROTATIONS)(
    "a window shorter than a chunk, rows that are no vec4s, one head per K/V head, %s",
    async (rotation) => {
      const c = sequence(50, { window: 7, heads: 3, kvHeads: 3, headDim: 3 });
      await prefill(c, 3, "zigzag", rotation, [20, 30]);
    },
  );

  it.each(ROTATIONS)("every query sees every key, softcap, %s", async (rotation) => {
    await prefill(sequence(40, { isCausal: false, softcap: 5 }), 4, "striped", rotation, [40]);
  });

  it.each(ROTATIONS)("runs longer than a piece and pages longer than staging sees at once, %s", async (rotation) => {
    const c = sequence(700, { heads: 2, kvHeads: 1 });
    const world = await RankWorld.open(device, c, 2, { pageSize: 128 });
    await world.step([[run(0, 600)], [run(600, 100)]], { rotation });
    world.check([run(0, 50), run(550, 150)]);
    world.destroy();
  });
});

describe("any split of any chunks, in any order", () => {
  /** Tokens to ranks at random: uneven, scattered, some ranks with nothing at all. */
  const splits = fc.record({
    worldSize: fc.integer({ min: 1, max: 5 }),
    rotation: fc.constantFrom(...ROTATIONS),
    window: fc.constantFrom(undefined, 5),
    isCausal: fc.boolean(),
    owners: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 40 }),
    cuts: fc.array(fc.integer({ min: 0, max: 40 }), { maxLength: 2 }),
    isBackwards: fc.boolean(),
  });

  it("gives the oracle's answer", async () => {
    await fc.assert(
      fc.asyncProperty(splits, async ({ worldSize, rotation, window, isCausal, owners, cuts, isBackwards }) => {
        const c = sequence(owners.length, { window, isCausal });
        const world = await RankWorld.open(device, c, worldSize, { pageSize: 4 });
        const ends = [...new Set([...cuts.filter((cut) => cut < owners.length), owners.length, 0])].sort(
          (a, b) => a - b,
        );
        const chunks = ends.slice(1).map((end, index) => [ends[index]!, end] as const);
        // Backwards: later positions are computed first, as when a peer's tokens are made again.
        for (const [from, to] of isBackwards ? [...chunks].reverse() : chunks) {
          const shards: TokenRange[][] = Array.from({ length: worldSize }, () => []);
          for (let position = from; position < to; position++)
            shards[owners[position]! % worldSize]!.push(run(position, 1));
          await world.step(shards, { rotation });
          world.check([run(from, to - from)]);
        }
        world.destroy();
      }),
      { numRuns: 25 },
    );
  });
});

describe("what a ring of peers needs", () => {
  it.each(ROTATIONS)("tokens lost in the middle are computed again, and the rest goes on, %s", async (rotation) => {
    const world = await RankWorld.open(device, sequence(60), 3);
    await world.step(shardTokens({ count: 30, worldSize: 3, layout: "zigzag" }), { rotation });
    const lost = world.blocks[1]!.ranges;
    await world.blocks[1]!.drop([run(0, 1000)]);
    expect(world.blocks[1]!.tokenCount).toBe(0);
    world.held[1] = [];
    // Two ranks share what the third has lost; their blocks hold it out of order.
    const [first, ...rest] = lost;
    await world.step([[first!], [], rest], { rotation });
    world.check(lost);
    expect(tokenCount(lost)).toBe(10);
    await world.step(shardTokens({ start: 30, count: 30, worldSize: 3, layout: "striped" }), { rotation });
    world.check([run(30, 30)]);
    world.check([run(0, 60)]);
    world.destroy();
  });

  it("K/V that are wanted on the wire as f16 cost half the bytes and a small error", async () => {
    const c = sequence(64, { heads: 4, kvHeads: 1, headDim: 3 });
    const errors: number[] = [];
    const bytes: number[] = [];
    for (const wireDtype of ["f32", "f16"] as const) {
      const world = await RankWorld.open(device, c, 3, { pageSize: 7 });
      const steps = await world.step(shardTokens({ count: 64, worldSize: 3, layout: "zigzag" }), { wireDtype });
      const want = world.oracle().output;
      errors.push(Math.max(...want.map((x, i) => Math.abs(x - world.output[i]!))));
      bytes.push(steps[1]![1]!.receivedBytes);
      world.destroy();
    }
    expect(errors[0]).toBeLessThan(1e-6);
    // Rounding of numbers up to 1.7 in size, to 11 bits.
    expect(errors[1]).toBeGreaterThan(1e-5);
    expect(errors[1]).toBeLessThan(2e-3);
    // Of rank 0's tokens the first 11 travel: nobody else has a query past the others.
    expect(bytes[0]! - bytes[1]!).toBe(11 * 3 * 2 * 2);
    console.info(`f16 on the wire: largest error ${errors[1]!.toExponential(2)}, f32 ${errors[0]!.toExponential(2)}`);
  });
});
