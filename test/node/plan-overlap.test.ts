/** Hiding transfers: the arithmetic, against the paper's case and against a simulated pipeline. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/errors.ts";
import {
  chooseRotation,
  forecastExposure,
  hidingTokens,
  hopBytesPerToken,
  overlapSentence,
  rotationBytes,
} from "../../src/ring/overlap.ts";

const shape = { heads: 32, kvHeads: 8, headDim: 128, bytesPerElement: 4 };
const speed = { multiplyAddsPerSecond: 4e12, bytesPerSecond: 40e6 };
const full = { isCausal: false, layout: "zigzag" as const };
const causal = { isCausal: true, layout: "zigzag" as const };

describe("from which length on compute hides transfers", () => {
  it("is the paper's c >= F / B with f16, as many K/V heads as heads, and F in FLOPs", () => {
    const flops = 2 * 156e12;
    const paper = { heads: 32, kvHeads: 32, headDim: 128, bytesPerElement: 2 };
    const rank = { multiplyAddsPerSecond: flops / 2, bytesPerSecond: 300e9 };
    expect(hidingTokens(paper, rank, full)).toBe(Math.ceil(flops / 300e9));
  });

  it("falls with grouped heads and f16, and doubles where a causal mask halves the work", () => {
    const tokens = hidingTokens(shape, speed, full);
    expect(tokens).toBe(100_000);
    expect(hidingTokens({ ...shape, kvHeads: 32 }, speed, full)).toBe(4 * tokens);
    expect(hidingTokens({ ...shape, bytesPerElement: 2 }, speed, full)).toBe(tokens / 2);
    expect(hidingTokens(shape, speed, causal)).toBe(2 * tokens);
    expect(hidingTokens(shape, speed, { isCausal: true, layout: "contiguous" })).toBe(tokens);
  });

  it("is where the forecast's exposed time ends, whatever the block's length", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.double({ min: 1e8, max: 1e13, noNaN: true }),
        fc.double({ min: 1e6, max: 1e10, noNaN: true }),
        fc.integer({ min: 1, max: 100_000 }),
        fc.boolean(),
        (group, multiplyAddsPerSecond, bytesPerSecond, kvTokens, isCausal) => {
          const sizes = { heads: 4 * group, kvHeads: 4, headDim: 64, bytesPerElement: 4 };
          const rank = { multiplyAddsPerSecond, bytesPerSecond };
          const mask = { isCausal, layout: "striped" as const };
          const needed = hidingTokens(sizes, rank, mask);
          const at = (queryTokens: number) =>
            forecastExposure({ shape: sizes, speed: rank, ...mask, worldSize: 4, queryTokens, kvTokens });
          const shareAt = (queryTokens: number) => at(queryTokens).exposedMs / at(queryTokens).totalMs;
          expect(shareAt(needed)).toBeLessThan(1e-9);
          if (needed > 1) expect(shareAt(0.9 * (needed - 1))).toBeGreaterThan(0.01);
        },
      ),
    );
  });

  it("the forecast is what a pipeline of transfers and steps takes", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 1, max: 5000 }),
        fc.double({ min: 0, max: 50, noNaN: true }),
        (worldSize, queryTokens, kvTokens, latencyMs) => {
          const options = { shape, speed: { multiplyAddsPerSecond: 1e11, bytesPerSecond: 2e8 }, ...full };
          const forecast = forecastExposure({ ...options, worldSize, queryTokens, kvTokens, latencyMs });
          const step = forecast.computeMs / worldSize;
          let done = 0;
          for (let i = 0; i < worldSize; i++) done = Math.max(done, i * forecast.transferMs) + step;
          expect(forecast.totalMs).toBeCloseTo(done, 6);
        },
      ),
    );
  });

  it("refuses figures that are none", () => {
    expect(() => hidingTokens(shape, { ...speed, bytesPerSecond: 0 }, full)).toThrow(OptionError);
    expect(() => hidingTokens({ ...shape, heads: Number.NaN }, speed, full)).toThrow(OptionError);
  });
});

describe("the sentence", () => {
  const report = { shape, ...causal, speeds: [speed, speed], queryTokens: [300_000, 300_000] };
  it("says yes, no, not yet known, and nothing to hide", () => {
    expect(overlapSentence(report)).toBe(
      "This ring hides its transfers from 200,000 tokens per rank and pass on: rank 0, the farthest from it, has 300,000.",
    );
    expect(overlapSentence({ ...report, queryTokens: [300_000, 1024] })).toBe(
      "This ring does not hide its transfers yet: it would from 200,000 tokens per rank and pass on; rank 1, the farthest from it, has 1,024.",
    );
    expect(overlapSentence({ ...report, speeds: [undefined, undefined] })).toContain("Not measured yet");
    expect(overlapSentence({ ...report, speeds: [speed] })).toContain("ring of one");
  });
});

describe("what goes around", () => {
  it("counts the bytes of both", () => {
    const options = { shape, queryTokens: [10, 20], kvTokens: [100, 50] };
    expect(hopBytesPerToken(shape, "keyValue")).toBe(2 * 8 * 128 * 4);
    expect(rotationBytes(options)).toEqual({
      keyValue: 150 * 2 * 8 * 128 * 4,
      query: 30 * (2 * 32 * 128 + 64) * 4 + 30 * (32 * 128 + 64) * 4,
    });
  });
  it("moves K/V in a first prefill and the queries of a short addition to a long context", () => {
    expect(chooseRotation({ shape, queryTokens: [512, 512], kvTokens: [512, 512] })).toBe("keyValue");
    expect(chooseRotation({ shape, queryTokens: [16, 16], kvTokens: [8192, 8192] })).toBe("query");
    expect(chooseRotation({ shape, queryTokens: [5], kvTokens: [500] })).toBe("keyValue");
  });
});
