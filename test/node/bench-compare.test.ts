/** `--compare`: what counts as a change, and what as a loss. */
import { describe, expect, it } from "vitest";
import { compareRuns } from "../../bench/compare.ts";
import type { BenchDocument, BenchResult } from "../../bench/result-types.ts";
import { comparisonText } from "../../src/cli/bench-text.ts";

const result = (over: Partial<BenchResult>): BenchResult => ({
  ...{ case: "a", group: "attention", implementation: "flash", seqLen: 1024 },
  ...over,
});
const run = (results: BenchResult[], over: Partial<BenchDocument> = {}): BenchDocument => ({
  ...{ ringwise: "0", date: "2026-01-01T00:00:00.000Z", runtime: "chrome", host: "h", machine: "m", adapter: "x" },
  ...{ results, ...over },
});
const timed = (timeMs: number, peakShare?: number, spread = 0.01, over: Partial<BenchResult> = {}) =>
  result({ timeMs: { median: timeMs, min: timeMs, spread, samples: [timeMs] }, peakShare, ...over });
const only = (before: BenchResult, after: BenchResult, over: Partial<BenchDocument> = {}) =>
  compareRuns(run([before]), run([after], over)).changes[0];

describe("speed", () => {
  it("is one only beyond noise, by the share of the peak, and lost beyond 10%", () => {
    const verdict = (before: BenchResult, after: BenchResult) => {
      const { verdict, isLoss } = only(before, after)!;
      return isLoss ? `${verdict}, loss` : verdict;
    };
    expect(verdict(timed(10, 0.5), timed(10, 0.51))).toBe("same");
    expect(verdict(timed(10, 0.5), timed(10, 0.6))).toBe("faster");
    expect(verdict(timed(10, 0.5), timed(10, 0.46))).toBe("slower");
    expect(verdict(timed(10, 0.5), timed(10, 0.4))).toBe("slower, loss");
    expect(verdict(timed(10, 0.5, 0.2), timed(10, 0.4, 0.2))).toBe("same");
    // The peak's own spread is noise, too.
    expect(verdict(timed(10, 0.5, 0.01, { fmaPeakSpread: 0.3 }), timed(10, 0.4))).toBe("same");
    // A machine that is twice as slow today, peak and all, has not made the kernel slower.
    expect(verdict(timed(10, 0.5), timed(20, 0.5))).toBe("same");
    // Without a share the time counts: 10 to 12.5 ms is a fifth of the speed.
    expect(verdict(timed(10), timed(12.5))).toBe("slower, loss");
    expect(verdict(timed(10), timed(10.9))).toBe("slower");
  });

  it("of a peer is told, and is no loss of ours", () => {
    const change = only(timed(10, 0.5, 0.01, { contender: "tfjs" }), timed(30, 0.2, 0.01, { contender: "tfjs" }))!;
    expect(change).toMatchObject({ verdict: "slower", isLoss: false, implementation: "tfjs: flash" });
  });

  it("of another element type is another case", () => {
    expect(only(timed(10, 0.5), timed(30, 0.1, 0.01, { dtype: "f16" }))).toBeUndefined();
    expect(only(timed(10, 0.5), timed(10, 0.5, 0.01, { dtype: "f32" }))).toMatchObject({ verdict: "same" });
  });
});

it("bytes: every difference is told, more than a tenth and 64 KiB is a loss", () => {
  const change = (before: number, after: number) => only(result({ extraBytes: before }), result({ extraBytes: after }));
  expect(change(100, 100)).toBeUndefined();
  expect(change(100, 50)).toMatchObject({ verdict: "less memory", isLoss: false });
  expect(change(100, 300)).toMatchObject({ verdict: "more memory", isLoss: false });
  expect(change(2 ** 20, 1.05 * 2 ** 20)).toMatchObject({ verdict: "more memory", isLoss: false });
  expect(change(2 ** 20, 1.2 * 2 ** 20)).toMatchObject({ verdict: "more memory", isLoss: true });
});

it("what was right and is wrong now is a loss, whatever its time", () => {
  const comparison = compareRuns(run([timed(10, 0.5)]), run([timed(1, 5, 0.01, { status: "wrong" })]));
  expect(comparison.changes).toMatchObject([{ measure: "status", verdict: "no longer right", isLoss: true }]);
  expect(comparisonText(comparison)).toMatch(/no longer right \(LOSS\)[\s\S]*1 lost more than 10%/);
});

it("another adapter is said, and nothing counts; on another machine only shares, bytes and correctness do", () => {
  const adapter = compareRuns(run([timed(10, 0.5)]), run([timed(10, 0.2)], { adapter: "y" }));
  expect(adapter.notes.join(" ")).toMatch(/Another adapter: "x" then, "y" now.*nothing counts/);
  expect(adapter.changes).toMatchObject([{ verdict: "slower", isLoss: false }]);
  expect(only(timed(10), timed(30), { machine: "n" })).toBeUndefined();
  expect(only(timed(10, 0.5), timed(30, 0.2), { machine: "n" })).toMatchObject({ verdict: "slower", isLoss: true });
});

it("cases of one run alone are named", () => {
  const comparison = compareRuns(run([result({ case: "gone" })]), run([result({ case: "new" })]));
  expect(comparison).toMatchObject({ changes: [], onlyBefore: ["gone"], onlyAfter: ["new"] });
  expect(comparisonText(comparison)).toContain("only in the old run: gone");
});
