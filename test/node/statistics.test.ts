/** The figures of a run that need no GPU. */
import { expect, it } from "vitest";
import { type ChunkTime, estimateSecondsLeft } from "../../src/model/statistics.ts";

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
