/** What the bench does with its samples: summaries, and the verdict on a change. */
import { describe, expect, it } from "vitest";
import { compareRuns } from "../../bench/compare.ts";
import { reportHtml } from "../../bench/report.ts";
import type { BenchDocument, BenchResult } from "../../bench/result-types.ts";
import { quantile, summarize } from "../../bench/statistics.ts";

const result = (over: Partial<BenchResult>): BenchResult => ({
  ...{ case: "a", group: "attention", implementation: "flash", seqLen: 1024 },
  ...over,
});
const run = (results: BenchResult[]): BenchDocument => ({
  ...{ ringwise: "0", date: "2026-01-01T00:00:00.000Z", runtime: "chrome", host: "h", machine: "m", adapter: "<x>" },
  results,
});

describe("summaries", () => {
  it("median and quartiles, linear between neighbours", () => {
    expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5);
    expect(quantile([10], 0.25)).toBe(10);
    expect(summarize([3, 1, 2])).toEqual({ median: 2, min: 1, spread: 0.5, samples: [3, 1, 2] });
    expect(() => summarize([])).toThrow(RangeError);
  });
});

describe("comparison", () => {
  const timed = (timeMs: number, peakShare: number, spread = 0.01) =>
    result({ timeMs: { median: timeMs, min: timeMs, spread, samples: [timeMs] }, peakShare });

  it("calls a difference one only beyond noise, by the share of the peak", () => {
    const verdict = (before: BenchResult, after: BenchResult) => compareRuns(run([before]), run([after]))[0]!.verdict;
    expect(verdict(timed(10, 0.5), timed(10, 0.51))).toBe("same");
    expect(verdict(timed(10, 0.5), timed(10, 0.6))).toBe("faster");
    expect(verdict(timed(10, 0.5), timed(10, 0.4))).toBe("slower");
    expect(verdict(timed(10, 0.5, 0.2), timed(10, 0.6, 0.2))).toBe("same");
    // A machine that is twice as slow today, peak and all, has not made the kernel slower.
    expect(verdict(timed(10, 0.5), timed(20, 0.5))).toBe("same");
  });

  it("names bytes that changed, and leaves out cases that only one run has", () => {
    const changes = compareRuns(
      run([result({ extraBytes: 100 }), result({ case: "gone" })]),
      run([result({ extraBytes: 50 }), result({ case: "new", extraBytes: 1 })]),
    );
    expect(changes.map(({ case: name, verdict }) => [name, verdict])).toEqual([["a", "less memory"]]);
  });
});

it("the report escapes what it shows", () => {
  const html = reportHtml(run([result({ case: "</script><b>" })]));
  expect(html).not.toContain("<b>");
  expect(html).toContain("&#60;x&#62;");
});
