/**
 * The ring over links does not show its transfers: the library's loop, streaming, credits and links, with compute that only takes
 * time, on a clock that the machine's load does not reach. Deterministic, so the bounds are tight.
 */
import { describe, expect, it } from "vitest";
import { measureOverlap, measureScaling, shortestPassMs } from "../../bench/ring/simulate.ts";
import { withVirtualClock } from "../../bench/ring/virtual-clock.ts";

const CASES = [
  { worldSize: 2, layout: "striped", isCausal: false },
  { worldSize: 2, layout: "contiguous", isCausal: true },
  { worldSize: 4, layout: "contiguous", isCausal: false },
  { worldSize: 4, layout: "zigzag", isCausal: true },
  { worldSize: 4, layout: "striped", isCausal: true },
  { worldSize: 8, layout: "zigzag", isCausal: true },
] as const;

const onVirtualClock = { clock: "virtual", repeats: 1 } as const;

describe.each(CASES)("$worldSize ranks, $layout, causal: $isCausal", (options) => {
  it("a transfer of 0.8 of a step is hidden", async () => {
    const row = await measureOverlap({ ...options, ...onVirtualClock, ratio: 0.8 });
    // What stands in for the kernels has met exactly the pairs that the mask lets through: 80 ms a step on average.
    expect(row.computeMs).toBeCloseTo(80 * options.worldSize, 3);
    expect((row.exposedMs - row.unavoidableMs) / row.wallMs).toBeLessThan(0.05);
    if (options.layout !== "contiguous") expect(row.exposedShare).toBeLessThan(0.05);
  });

  it("a transfer of twice a step shows, within 10% of what no schedule could avoid", async () => {
    const row = await measureOverlap({ ...options, ...onVirtualClock, ratio: 2 });
    expect(row.unavoidableMs).toBeGreaterThan(79 * (options.worldSize - 1));
    expect(row.exposedMs).toBeGreaterThan(0.999 * row.unavoidableMs);
    expect(row.exposedMs).toBeLessThan(1.1 * row.unavoidableMs);
  });
});

describe("prefill on ranks of any speed", () => {
  const options = { tokens: 1024, aloneMs: 3200 };
  it("takes a quarter of the time on four alike", async () => {
    const row = await measureScaling({ ...options, speeds: [1, 1, 1, 1], shards: "equal" });
    expect(row.efficiency).toBeGreaterThan(0.95);
    expect(row.efficiency).toBeLessThan(1.001);
  });

  it("one that is 20 times slower holds everyone up with equal shards, and hardly anyone with its own", async () => {
    const speeds = [1, 1, 0.05, 1];
    const equal = await measureScaling({ ...options, speeds, shards: "equal" });
    const sized = await measureScaling({ ...options, speeds, shards: "by speed" });
    expect(sized.tokens[2]).toBeLessThan(25);
    expect(equal.wallMs / sized.wallMs).toBeGreaterThan(10);
    expect(sized.efficiency).toBeGreaterThan(0.8);
  });
});

describe("the measuring stick", () => {
  it("is right for passes that can be worked out by hand", () => {
    const even = [
      [10, 10, 10],
      [10, 10, 10],
      [10, 10, 10],
    ];
    expect(shortestPassMs(even, [8, 8, 8])).toBe(30);
    expect(shortestPassMs(even, [20, 20, 20])).toBe(50);
    // Causal and contiguous: rank 0 sees only itself, rank 2 everybody; blocks go no further than they are seen.
    const late = [
      [5, 0, 0],
      [5, 10, 0],
      [5, 10, 10],
    ];
    expect(shortestPassMs(late, [8, 8, 8])).toBe(28);
  });

  it("virtual time passes only while everyone waits, in order, and is put back", async () => {
    const before = performance.now;
    const told: string[] = [];
    const startMs = performance.now();
    const tookMs = await withVirtualClock(async () => {
      const beginMs = performance.now();
      const note = (name: string) => told.push(`${name} ${Math.round(performance.now() - beginMs)}`);
      const every = setInterval(() => note("tick"), 40_000);
      setTimeout(() => note("late"), 90_000);
      clearTimeout(setTimeout(() => note("never"), 10));
      await crypto.subtle.digest("SHA-256", new Uint8Array(100_000));
      note("hash");
      const { port1, port2 } = new MessageChannel();
      await new Promise<void>((resolve) => {
        port1.onmessage = () => resolve();
        port2.postMessage(0);
      });
      note("message");
      await new Promise((resolve) => setTimeout(resolve, 100_000));
      clearInterval(every);
      return performance.now() - beginMs;
    });
    expect(told).toEqual(["hash 0", "message 0", "tick 40000", "tick 80000", "late 90000"]);
    expect(tookMs).toBe(100_000);
    expect(performance.now).toBe(before);
    expect(performance.now() - startMs).toBeLessThan(20_000);
  });
});
