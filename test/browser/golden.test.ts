/**
 * The trained model reproduces its published output, token for token, on every kind of ring. By default a covering subset:
 * every world size, layout, chunk size, block memory and attention kind occurs; RINGWISE_GOLDEN=all (`npm run test:golden`)
 * runs every combination.
 */
import { afterAll, describe, expect, it } from "vitest";
import { loadModel } from "../../src/model/load-model.ts";
import type { Model, RingOptions } from "../../src/model/types.ts";
import { golden, goldenText, hasShared, stories, testDevice } from "./model-fixtures.ts";

interface Case extends Required<RingOptions> {
  /** Prefill chunk; "all": the prompt at once. */
  chunk: number | "all";
  /** Golden ids that are given as the prompt; the rest must come out. */
  promptTokens: number;
  /** Tokens to generate: to the golden's end unless given. */
  newTokens?: number;
}

const ring = (worldSize: number, layout: Case["layout"], blockMemory: Case["blockMemory"]): Required<RingOptions> => ({
  worldSize,
  layout,
  blockMemory,
  attention: "ring",
});

const worldSizes = [1, 2, 4, 7];
const layouts = ["contiguous", "zigzag", "striped"] as const;
const memories = ["gpu", "host"] as const;
const chunks = [1, 64, "all"] as const;
const kinds = ["vanilla", "flash", "blockwise"] as const;

/** Every combination, all 200 steps. */
const all: Case[] = [
  ...worldSizes.flatMap((worldSize) =>
    layouts.flatMap((layout) =>
      memories.flatMap((memory) =>
        chunks.map((chunk): Case => ({ ...ring(worldSize, layout, memory), chunk, promptTokens: 150 })),
      ),
    ),
  ),
  ...worldSizes.flatMap((worldSize) =>
    layouts.flatMap((layout) =>
      memories.map((memory): Case => ({ ...ring(worldSize, layout, memory), chunk: "all", promptTokens: 1 })),
    ),
  ),
  ...kinds.flatMap((attention) =>
    chunks.map((chunk): Case => ({ ...ring(1, "zigzag", "gpu"), attention, chunk, promptTokens: 100 })),
  ),
];

/** From BOS alone over all 200 steps where decode is what is told apart; from a long prompt where prefill is. */
const covering: Case[] = [
  { ...ring(1, "zigzag", "gpu"), chunk: "all", promptTokens: 1 },
  { ...ring(4, "zigzag", "gpu"), chunk: "all", promptTokens: 1 },
  { ...ring(7, "striped", "gpu"), chunk: 64, promptTokens: 150 },
  { ...ring(2, "contiguous", "gpu"), chunk: 64, promptTokens: 150 },
  { ...ring(4, "striped", "gpu"), chunk: "all", promptTokens: 170 },
  { ...ring(7, "contiguous", "gpu"), chunk: "all", promptTokens: 170 },
  { ...ring(2, "zigzag", "gpu"), chunk: 1, promptTokens: 40, newTokens: 20 },
  { ...ring(1, "contiguous", "host"), chunk: 64, promptTokens: 170 },
  { ...ring(2, "striped", "host"), chunk: "all", promptTokens: 170 },
  { ...ring(4, "contiguous", "host"), chunk: 1, promptTokens: 20, newTokens: 10 },
  { ...ring(7, "zigzag", "host"), chunk: 64, promptTokens: 170 },
  { ...ring(1, "zigzag", "gpu"), attention: "vanilla", chunk: 64, promptTokens: 150 },
  { ...ring(1, "zigzag", "gpu"), attention: "flash", chunk: "all", promptTokens: 150 },
  { ...ring(1, "zigzag", "gpu"), attention: "blockwise", chunk: 64, promptTokens: 150 },
];

const cases = __GOLDEN__ === "all" ? all : covering;

describe.skipIf(!hasShared)("stories260K", () => {
  let model: Model | undefined;
  afterAll(() => model?.destroy());

  for (const { chunk, promptTokens, newTokens, ...options } of cases)
    it(`${options.attention}, worldSize ${options.worldSize}, ${options.layout}, ${options.blockMemory} blocks, chunks of ${chunk}, prompt of ${promptTokens}`, async () => {
      const ids = await golden();
      model ??= await loadModel(await stories(), { device: await testDevice(), ring: options });
      await model.setRing(options);
      const end = newTokens ? promptTokens + newTokens : ids.length;
      const run = model.generate(ids.slice(0, promptTokens), {
        maxNewTokens: end - promptTokens,
        prefillChunkSize: chunk === "all" ? Number.POSITIVE_INFINITY : chunk,
      });
      const got: number[] = [];
      let text = "";
      for await (const piece of run) {
        got.push(piece.tokenId);
        text += piece.text;
      }
      expect(got).toEqual(ids.slice(promptTokens, end));
      if (promptTokens === 1) expect(text.trimStart()).toBe((await goldenText()).trimStart());
      const { statistics } = run;
      expect(statistics.stopReason).toBe("maxNewTokens");
      expect(statistics.newTokens).toBe(got.length);
      const kept = statistics.ring.ranks.reduce((sum, rank) => sum + rank.kvTokens, 0);
      expect(kept).toBe(end - 1); // the last token is given out, never read
    });
});
