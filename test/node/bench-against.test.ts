/** `bench --against` without a browser: who takes turns with whom, and what becomes of contenders that are wrong, slow or gone. */
import { describe, expect, it } from "vitest";
import { AGAINST_DEFAULT_CASES, againstCase, againstCaseNames, tensorBytes } from "../../bench/against/cases.ts";
import { CannotAskError, type PageGpu, plainMask } from "../../bench/against/contender.ts";
import { type AgainstOptions, type ContenderHandle, type Entrant, runAgainstCase } from "../../bench/against/run.ts";
import { judge, runsPerSample, samplesWithin } from "../../bench/against/verdict.ts";
import { attentionInputs, expectedRows } from "../../bench/attention-oracle.ts";
import type { Contender } from "../../bench/result-types.ts";
import { chooseAgainstCases, parsePeers } from "../../src/cli/bench-against.ts";

const shape = againstCase("scale");
const rowsOf = (rows: number[]) => Array.from(expectedRows(shape, attentionInputs(shape), rows));

/** A page that is none: right, 10 ms a run, unless told otherwise. */
class StandIn implements ContenderHandle {
  opened = 0;
  isGone = false;
  told: PageGpu = { peakBytes: 1000, refusedBytes: 0, errors: [] };

  constructor(
    private readonly name: string,
    private readonly calls: string[],
    private readonly timeMs = 10,
    private readonly clock = { nowMs: 0 },
  ) {}

  async open() {
    this.opened++;
    this.isGone = false;
    return { adapter: "stand-in", isCpu: true };
  }
  isAlive = async () => !this.isGone;
  prepare = async (kind: string) => ({ implementation: `${this.name}'s ${kind}` });
  async sample(count: number): Promise<{ timeMs: number; cpuSeconds?: number }> {
    this.calls.push(this.name);
    this.clock.nowMs += this.timeMs * count;
    return { timeMs: this.timeMs, cpuSeconds: this.timeMs / 500 };
  }
  async answer(question: unknown): Promise<unknown> {
    if (this.name === "peak") return { flopCount: 1e9 };
    return rowsOf((question as { rows: number[] }).rows);
  }
  gpu = async () => this.told;
  close = async () => {};
}

function stage(...others: StandIn[]): {
  run: (options?: Partial<AgainstOptions>) => ReturnType<typeof runAgainstCase>;
} {
  const names: Contender[] = ["ringwise", "jax-js", "tfjs"];
  const entrants: Entrant[] = others.map((handle, index) => ({ name: names[index]!, handle }));
  const options = { warmups: 1, repeats: 3, minSampleMs: 10, contenderMs: 1e6, say: () => {} };
  return { run: (over) => runAgainstCase(entrants, new StandIn("peak", []), shape, { ...options, ...over }) };
}

describe("one case among contenders", () => {
  it("warms up each, then takes samples in turn, and says how far ahead of the fastest right peer we are", async () => {
    const calls: string[] = [];
    const [ours, fast, slow] = [new StandIn("A", calls), new StandIn("B", calls, 40), new StandIn("C", calls, 90)];
    const results = await stage(ours, fast, slow).run();
    expect(calls.join("")).toBe("ABCABCABCABC");
    expect(results.map(({ contender, status, timeMs }) => [contender, status, timeMs!.median])).toEqual([
      ["ringwise", "ok", 10],
      ["jax-js", "ok", 40],
      ["tfjs", "ok", 90],
    ]);
    expect(results[0]).toMatchObject({ figures: { timesFaster: 4, timesFasterAtMinimum: 4 }, cpuSeconds: 0.02 });
    expect(results[0]).toMatchObject({
      peakBytes: 1000,
      fmaPeakGflops: 100,
      tensorBytes: tensorBytes(shape),
      errorRows: 20,
    });
    expect(results[1]!.implementation).toBe("B's attention");
  });

  it("does not race a peer whose output is wrong, and says in what way", async () => {
    const calls: string[] = [];
    const zeros = new StandIn("B", calls, 1);
    zeros.answer = async (question) => rowsOf((question as { rows: number[] }).rows).map(() => 0);
    zeros.told = { peakBytes: 5, refusedBytes: 2 ** 33, errors: ["Invalid Buffer"] };
    const off = new StandIn("C", calls, 1);
    off.answer = async (question) => rowsOf((question as { rows: number[] }).rows).map((value) => 1.1 * value);
    const [ours, first, second] = await stage(new StandIn("A", calls), zeros, off).run();
    expect(calls.join("")).toBe("ABCAAA");
    expect(first).toMatchObject({ status: "wrong" });
    expect(second).toMatchObject({ status: "wrong" });
    expect([first!.timeMs, second!.timeMs]).toEqual([undefined, undefined]);
    expect(first!.reason).toContain("The output is all zeros, without an error.");
    expect(first!.reason).toContain("asked for a buffer of 8589934592 bytes");
    expect(first!.reason).toContain("Invalid Buffer");
    expect(second!.reason).toMatch(/away from the oracle/);
    expect(second!.maxError).toBeGreaterThan(0.01);
    expect(ours!.figures).toBeUndefined();
  });

  it("goes on without a peer that cannot be asked, or that fails in the middle", async () => {
    const calls: string[] = [];
    const unable = new StandIn("B", calls);
    unable.prepare = async () => {
      throw new CannotAskError("no such mask");
    };
    const crashing = new StandIn("C", calls);
    const sample = crashing.sample.bind(crashing);
    crashing.sample = async (count) => {
      if (calls.filter((name) => name === "C").length === 2) throw new Error("the page crashed");
      return sample(count);
    };
    const results = await stage(new StandIn("A", calls), unable, crashing).run();
    expect(calls.join("")).toBe("ACACAA");
    expect(results.map(({ status }) => status)).toEqual(["ok", "failed", "failed"]);
    expect(results[1]!.reason).toBe("Cannot be asked: no such mask.");
    expect(results[2]!.reason).toBe("the page crashed.");
    expect(results[2]!.timeMs).toBeUndefined();
  });

  it("opens a page again that someone else took along, without blame", async () => {
    const calls: string[] = [];
    const ours = new StandIn("A", calls);
    const culprit = new StandIn("B", calls);
    culprit.sample = async () => {
      ours.isGone = true;
      throw Object.assign(new Error("GPU process died"), { name: "DeviceLostError" });
    };
    const [first, second] = await stage(ours, culprit).run();
    expect(second).toMatchObject({ status: "failed", reason: "The device was lost: GPU process died." });
    expect(first).toMatchObject({ status: "ok" });
    expect(ours.opened).toBe(2);
    expect(first!.timeMs!.samples).toHaveLength(3);
  });

  it("gives a slow peer fewer samples, at least one", async () => {
    const clock = { nowMs: 0 };
    const [ours, slow] = [new StandIn("A", [], 10, clock), new StandIn("B", [], 400, clock)];
    const run = stage(ours, slow).run({ contenderMs: 1300, now: () => clock.nowMs, warmups: 2 });
    expect((await run).map(({ timeMs }) => timeMs!.samples.length)).toEqual([3, 2]);
  });
});

describe("verdicts", () => {
  it("wants every element, within a share of the largest", () => {
    expect(judge([1, 2], [1, 2])).toEqual({ isRight: true, maxError: 0 });
    expect(judge([1.001, 2], [1, 2]).isRight).toBe(true);
    expect(judge([1.01, 2], [1, 2]).isRight).toBe(false);
    expect(judge([1], [1, 2]).isRight).toBe(false);
    expect(judge([1, 2, 3], [1, 2]).isRight).toBe(false);
    expect(judge([Number.NaN, 2], [1, 2])).toMatchObject({ isRight: false, reason: expect.stringContaining("NaN") });
    expect(judge([0, 0], [1, 2])).toMatchObject({ isRight: false, reason: expect.stringContaining("zeros") });
  });

  it("fills a sample, and a contender's time", () => {
    expect(runsPerSample(7, 50)).toBe(8);
    expect(runsPerSample(70, 50)).toBe(1);
    expect(samplesWithin(1000, 300, 7)).toBe(3);
    expect(samplesWithin(-5, 300, 7)).toBe(1);
  });
});

describe("what is asked", () => {
  it("masks that a library with all or causal alone can be given", () => {
    const causal = againstCase("prefill-1024-causal");
    expect(plainMask(againstCase("prefill-1024"), "x")).toBe("none");
    expect(plainMask(causal, "x")).toBe("causal");
    expect(plainMask(againstCase("decode-16384"), "x")).toBe("none");
    expect(() => plainMask(againstCase("window-256-of-4096"), "x")).toThrow(CannotAskError);
    expect(() => plainMask({ ...causal, queryStart: 5, kvSeqLen: 1029 }, "x")).toThrow("as many queries as keys");
  });

  it("peers and cases by name", () => {
    expect(parsePeers("tfjs, ort,tfjs")).toEqual(["tfjs", "ort"]);
    expect(() => parsePeers("ort,torch")).toThrow('got "torch"');
    expect(chooseAgainstCases(undefined)).toEqual(AGAINST_DEFAULT_CASES);
    expect(chooseAgainstCases(["decode-4*", "decode-4096"])).toEqual(["decode-4096"]);
    expect(() => chooseAgainstCases(["segments"])).toThrow("no case that contenders meet in");
    expect(againstCaseNames()).toEqual(expect.arrayContaining([...AGAINST_DEFAULT_CASES]));
  });
});
