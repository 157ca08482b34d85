/** The figures of a run that need no GPU. */
import { expect, it } from "vitest";
import { ledgerOf, MemoryLedger } from "../../src/gpu/ledger.ts";
import { type ChunkTime, estimateSecondsLeft, StatisticsRecorder } from "../../src/model/statistics.ts";

/** Seconds of a prefill whose tokens cost a fixed part and a part that grows with the context. */
const seconds = (start: number, count: number) => count * (0.001 + 1e-6 * (start + count / 2));

const chunks = (count: number, size: number): ChunkTime[] =>
  Array.from({ length: count }, (_, i) => ({ start: i * size, count: size, seconds: seconds(i * size, size) }));

it("estimates a growing cost per token exactly", () => {
  expect(estimateSecondsLeft(chunks(3, 500), 10_000)).toBeCloseTo(seconds(1500, 8500), 9);
  expect(estimateSecondsLeft(chunks(19, 500), 10_000)).toBeCloseTo(seconds(9500, 500), 9);
});

it("goes on at the measured rate after one chunk, and never below zero", () => {
  expect(estimateSecondsLeft([{ start: 0, count: 100, seconds: 2 }], 300)).toBeCloseTo(4, 9);
  const falling = [
    { start: 0, count: 100, seconds: 9 },
    { start: 100, count: 100, seconds: 1 },
  ];
  expect(estimateSecondsLeft(falling, 1000)).toBeCloseTo(800 * 0.05, 9);
});

it("is zero when nothing is left, and before anything is known", () => {
  expect(estimateSecondsLeft(chunks(2, 500), 1000)).toBe(0);
  expect(estimateSecondsLeft([], 1000)).toBe(0);
});

it("tells the bytes of the model's own ranks, and of all that the device holds", () => {
  const device = {} as GPUDevice;
  const others = ledgerOf(device);
  const ours = new MemoryLedger();
  const take = (rank: number, bytes: number) => {
    for (const ledger of [others, ours]) ledger.add(rank, bytes);
  };
  others.add(0, 1000);
  take(1, 64);
  take(1, -64);
  const ring = { worldSize: 2, layout: "zigzag", blockMemory: "gpu", attention: "ring" } as const;
  const recorder = new StatisticsRecorder(device, ring, ours);
  recorder.start();
  take(1, 32);
  take(1, -8);
  recorder.memory([3, 4]);
  const { ranks } = recorder.statistics.ring;
  expect(ranks.map(({ gpuBytes, peakGpuBytes, kvTokens }) => [gpuBytes, peakGpuBytes, kvTokens])).toEqual([
    [0, 0, 3],
    [24, 32, 4],
  ]);
  expect(recorder.statistics.peakGpuBytes).toBe(1032);
});
