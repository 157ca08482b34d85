/** What the bench does with its samples: summaries, and the page that shows them. */
import { describe, expect, it } from "vitest";
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

it("the report escapes what it shows", () => {
  const html = reportHtml(run([result({ case: "</script><b>" })]));
  expect(html).not.toContain("<b>");
  expect(html).toContain("&#60;x&#62;");
});
