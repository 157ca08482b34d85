/** The model cases of `bench --against`, without a browser: whose turn it is, who is right, and the figures that follow. */
import { describe, expect, it } from "vitest";
import type { PageGpu } from "../../bench/against/contender.ts";
import { benchPrompt, decodeBytes, type ModelAgainstCase, prefillFlops } from "../../bench/against/model-cases.ts";
import { runAgainstModelCase } from "../../bench/against/model-run.ts";
import type { AgainstOptions, ContenderHandle } from "../../bench/against/run.ts";
import { presetNumbers } from "../../bench/onnx/model-numbers.ts";
import { oracleLogits } from "../../bench/onnx/model-oracle.ts";
import { expectedTensors } from "../../src/model/config.ts";
import { presetConfig } from "../../src/model/presets.ts";

const config = presetConfig("debug");
const shape: ModelAgainstCase = {
  ...{ name: "model-test", model: { preset: "debug" }, promptTokens: 8, newTokens: 6, oracleTokens: 4 },
};
const LOGITS = [1, -2, 3];

/** A page that is none: a prompt takes 50 ms and a token 10, times its slowness. */
class StandIn implements ContenderHandle {
  private kind = "";
  told: PageGpu = { peakBytes: 1000, refusedBytes: 0, errors: [] };
  /** Added to the logits after the whole prompt. */
  error = 0;

  constructor(
    private readonly name: string,
    private readonly calls: string[],
    private readonly slowness = 1,
    private readonly clock = { nowMs: 0 },
  ) {}

  open = async () => ({ adapter: "stand-in", isCpu: true });
  isAlive = async () => true;
  async prepare(kind: string) {
    this.kind = kind;
    return { implementation: `${this.name}'s` };
  }
  async sample(count: number) {
    if (this.kind.startsWith("model")) this.calls.push(`${this.name} ${this.kind.slice(6)} ${count}`);
    const timeMs = this.slowness * (this.kind === "model-prefill" ? 50 : 10);
    this.clock.nowMs += timeMs * count;
    return { timeMs, cpuSeconds: timeMs / 500 };
  }
  async answer(question: unknown): Promise<unknown> {
    if (this.kind === "fma-peak") return { flopCount: 1e9 };
    if (this.kind === "read-peak") return { byteLength: 1e8 };
    const { length } = (question as { logitsOf: number[] }).logitsOf;
    return LOGITS.map((logit) => logit + (length === shape.promptTokens ? this.error : 0));
  }
  gpu = async () => this.told;
  close = async () => {};
}

function run(ours: StandIn, peer: StandIn, over: Partial<AgainstOptions & ModelAgainstCase> = {}) {
  const options = { warmups: 1, repeats: 2, minSampleMs: 1, contenderMs: 1e6, say: () => {}, ...over };
  const entrants = [
    { name: "ringwise" as const, handle: ours },
    { name: "onnxruntime-web" as const, handle: peer },
  ];
  const probes = { fma: new StandIn("fma", []), read: new StandIn("read", []) };
  return runAgainstModelCase(entrants, probes, { ...shape, ...over }, { config, logits: LOGITS }, options);
}

describe("one model among contenders", () => {
  it("warms up each, then reads the prompt and decodes in turn", async () => {
    const calls: string[] = [];
    const results = await run(new StandIn("A", calls), new StandIn("B", calls, 4));
    const warmUp = (name: string) =>
      [1, 1].flatMap((n) => [`${name} prefill ${n}`]).concat(Array(2).fill(`${name} decode 1`));
    const round = ["A prefill 1", "A decode 6", "B prefill 1", "B decode 6"];
    expect(calls).toEqual([...warmUp("A"), ...warmUp("B"), ...round, ...round]);
    expect(results.map((result) => [result.case, result.contender, result.status, result.timeMs!.median])).toEqual([
      ["model-test-prefill", "ringwise", "ok", 50],
      ["model-test-decode", "ringwise", "ok", 10],
      ["model-test-prefill", "onnxruntime-web", "ok", 200],
      ["model-test-decode", "onnxruntime-web", "ok", 40],
    ]);
    expect(results[0]).toMatchObject({ peakBytes: 1000, cpuSeconds: 0.1, fmaPeakGflops: 100, maxError: 0 });
    expect(results[0]!.figures).toMatchObject({ tokensPerSecond: 160, timesFaster: 4 });
    expect(results[1]).toMatchObject({ readPeakGBps: 10, figures: { tokensPerSecond: 100, tokensPerSample: 6 } });
    expect(results[3]!.figures).toMatchObject({ logitDifference: 0 });
  });

  it("does not race a peer that is wrong, and finds one that is wrong behind what the oracle has read", async () => {
    const calls: string[] = [];
    const zeros = new StandIn("B", calls);
    zeros.answer = async () => [0, 0, 0];
    const [, , wrong] = await run(new StandIn("A", calls), zeros);
    expect(wrong).toMatchObject({ status: "wrong", reason: "The output is all zeros, without an error." });
    expect(calls.filter((call) => call.startsWith("B"))).toEqual([
      ...["B prefill 1", "B prefill 1", "B decode 1", "B decode 1"],
    ]);
    const drifting = new StandIn("B", []);
    drifting.error = 0.1;
    const results = await run(new StandIn("A", []), drifting);
    expect(results.map(({ status }) => status)).toEqual(["ok", "ok", "wrong", "wrong"]);
    expect(results[2]!.reason).toContain("After 4 tokens its logits are the oracle's; after all 8 they are 1.0e-1 off");
    expect(results[0]!.figures).not.toHaveProperty("timesFaster");
  });

  it("lets a slow peer decode fewer tokens, and keeps to its time", async () => {
    const clock = { nowMs: 0 };
    const calls: string[] = [];
    const slow = new StandIn("B", calls, 100, clock);
    const results = await run(new StandIn("A", [], 1, clock), slow, { contenderMs: 18_000, now: () => clock.nowMs });
    // One warm-up of each, since it is slow; 3 tokens take a sixth of its time.
    expect(calls).toEqual(["B prefill 1", "B decode 1", "B decode 1", "B prefill 1", "B decode 3"]);
    expect(results[3]).toMatchObject({ figures: { tokensPerSample: 3 }, status: "ok" });
  });

  it("goes on without a peer that fails, and says why in both of its rows", async () => {
    const failing = new StandIn("B", []);
    failing.prepare = async () => {
      throw new Error("out of memory");
    };
    const results = await run(new StandIn("A", []), failing);
    expect(results.map(({ status, reason }) => [status, reason])).toEqual([
      ...[0, 1].map(() => ["ok", undefined]),
      ...[0, 1].map(() => ["failed", "out of memory."]),
    ]);
  });
});

describe("what a model does at least", () => {
  const matrices = expectedTensors(config).filter(({ name, shape }) => shape.length === 2 && !name.includes("embed"));
  const elements = matrices.reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0);
  const { layerCount, heads, kvHeads, headDim } = config;

  it("reads every matrix once for a token, and the keys and values before it", () => {
    expect(decodeBytes(config, 0)).toBe(4 * elements);
    expect(decodeBytes(config, 10) - decodeBytes(config, 0)).toBe(10 * layerCount * 2 * kvHeads * headDim * 4);
  });

  it("multiplies with every matrix for a prompt of one token, and less in the last layer for more", () => {
    expect(prefillFlops(config, 1)).toBe(2 * elements + layerCount * 4 * heads * headDim);
    const { hiddenSize: width, intermediateSize: inner } = config;
    const layer = 2 * (4 * width * width + 3 * width * inner);
    // A second token: a whole layer and two pairs in the first, keys, values and one pair in the last.
    const more = layer + 2 * 4 * heads * headDim + 2 * 2 * width * width + 4 * heads * headDim;
    expect(prefillFlops(config, 2) - prefillFlops(config, 1)).toBe(more);
  });

  it("has an oracle that reads a preset's own weights", async () => {
    const logits = await oracleLogits(presetNumbers("debug"), benchPrompt(2));
    expect(logits).toHaveLength(config.vocabSize);
    expect(new Set(logits).size).toBeGreaterThan(1000);
    expect(Math.max(...logits)).toBeLessThan(10);
  });
});
