import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { shardTokens } from "../../src/ring/shard.ts";
import type { RingLayout } from "../../src/ring/types.ts";
import { RankWorld, sequence } from "./rank-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

describe("chunked prefill over links equals the oracle", () => {
  const worlds = [1, 2, 3, 5];
  const layouts: RingLayout[] = ["contiguous", "zigzag", "striped"];
  const cases = worlds.flatMap((worldSize) => layouts.map((layout) => [worldSize, layout] as const));
  it.each(cases)("%i ranks, %s", async (worldSize, layout) => {
    const world = await RankWorld.open(device, sequence(61), worldSize);
    let start = 0;
    for (const count of [29, 1, 31]) {
      const steps = await world.step(shardTokens({ start, count, worldSize, layout }));
      for (const [rank, events] of steps.entries()) {
        expect(events.map(({ step, kvRank }) => [step, kvRank])).toEqual(
          Array.from({ length: worldSize }, (_, step) => [step, (rank - step + worldSize) % worldSize]),
        );
      }
      world.check([{ start, stride: 1, count }]);
      start += count;
    }
    world.destroy();
  });
});
