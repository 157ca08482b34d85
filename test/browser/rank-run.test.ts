/** A model on a ring of rank runs, one page holding all of them: the same tokens as on one page alone, whatever happens. */
import { afterAll, describe, expect, it } from "vitest";
import { DestroyedError, DeviceLostError, OptionError } from "../../src/errors.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { loadModel } from "../../src/model/load-model.ts";
import { openRank } from "../../src/model/rank-run.ts";
import type { GenerateOptions, Model } from "../../src/model/types.ts";
import { positionsOf, tokenCount } from "../../src/ring/shard.ts";
import { golden, hasShared, randomModel, stories, testDevice } from "./model-fixtures.ts";
import { RankRing, type RankRingOptions, span } from "./rank-ring.ts";

const models: Model[] = [];
afterAll(() => {
  for (const model of models) model.destroy();
});

const loaded = new Map<string, Promise<Model>>();
/** A model by name, loaded once. */
function modelOf(name: string, load: () => Promise<Model>): Promise<Model> {
  const model = loaded.get(name) ?? load();
  loaded.set(name, model);
  void model.then((one) => models.includes(one) || models.push(one));
  return model;
}

const tiny = (name: string, changes: Readonly<Record<string, unknown>>) =>
  modelOf(name, async () => loadModel(randomModel(name, changes, { seed: 5 }).files, { device: await testDevice() }));

/** Layers of both kinds, so that a window hides what a global layer sees. */
const sliding = () =>
  tiny("sliding", { layer_types: ["sliding_attention", "full_attention", "sliding_attention"], sliding_window: 7 });

const trained = () => modelOf("stories", async () => loadModel(await stories(), { device: await testDevice() }));

/** Tokens of an ordinary run. */
async function onePage(model: Model, prompt: readonly number[], options: GenerateOptions): Promise<number[]> {
  const tokens: number[] = [];
  for await (const piece of model.generate(prompt, options)) tokens.push(piece.tokenId);
  return tokens;
}

const pageSize = 16;
const prompt = Array.from({ length: 75 }, (_, index) => 3 + ((index * index * 7 + index) % 50));

async function withRing<T>(
  model: Model,
  worldSize: number,
  options: RankRingOptions,
  use: (ring: RankRing) => Promise<T>,
): Promise<T> {
  const ring = await RankRing.open(model, worldSize, { pageSize, ...options });
  try {
    return await use(ring);
  } finally {
    ring.release();
  }
}

/** Rank 0 takes more than half of everything, the last one nothing. */
const uneven = (start: number, count: number, worldSize: number) => {
  const shards = Array.from({ length: worldSize }, () => [] as ReturnType<typeof span>[]);
  const first = Math.ceil(count * 0.6);
  shards[0]!.push(span(start, first));
  if (worldSize > 2 && count > first) shards[1]!.push(span(start + first, count - first));
  else if (count > first) shards[0]!.push(span(start + first, count - first));
  return shards;
};

describe.skipIf(!hasShared)("the trained model on a ring of rank runs", () => {
  const rings: [string, number, RankRingOptions][] = [
    ["1 rank", 1, {}],
    ["2 ranks, contiguous", 2, { layout: "contiguous" }],
    ["3 ranks, zigzag", 3, { layout: "zigzag", opTokens: 40 }],
    ["5 ranks, striped", 5, { layout: "striped", opTokens: 150 }],
    ["3 ranks, the last with nothing", 3, { shard: uneven }],
    ["2 ranks, queries go around", 2, { layout: "zigzag", rotation: "query" }],
    ["3 ranks, f16 on the wire", 3, { layout: "zigzag", wireDtype: "f16" }],
  ];
  it.each(rings)("gives the published tokens: %s", async (_, worldSize, options) => {
    const ids = await golden();
    const tokens = await withRing(await trained(), worldSize, options, (ring) =>
      ring.generate(ids.slice(0, 150), { maxNewTokens: 16 }),
    );
    expect(tokens).toEqual(ids.slice(150, 166));
  });

  it("begins with BOS alone, kept by a rank that does not lead", async () => {
    const ids = await golden();
    const tokens = await withRing(await trained(), 3, {}, (ring) =>
      ring.generate(ids.slice(0, 1), { maxNewTokens: 12 }),
    );
    expect(tokens).toEqual(ids.slice(1, 13));
  });

  it("draws the same tokens as one page, by seed", async () => {
    const ids = (await golden()).slice(0, 40);
    const options = { maxNewTokens: 20, temperature: 0.9, topP: 0.95, topK: 40, seed: 11 };
    const expected = await onePage(await trained(), ids, options);
    const tokens = await withRing(await trained(), 3, {}, (ring) => ring.generate(ids, options));
    expect(tokens).toEqual(expected);
  });
});

describe("a ring of rank runs", () => {
  it("goes on token for token when ranks go and come in the middle", async () => {
    const model = await sliding();
    const expected = await onePage(model, prompt, { maxNewTokens: 16 });
    const recovered: number[] = [];
    const tokens = await withRing(model, 4, { layout: "striped" }, (ring) =>
      ring.generate(prompt, { maxNewTokens: 16 }, async (count, ids) => {
        if (count === 9) await ring.join();
        if (count === 5 || count === 9 || count === 12) {
          ring.leave(count === 9 ? 0 : 1);
          recovered.push(await ring.recover(ids, ids.length - 1, prompt.length));
        }
      }),
    );
    expect(tokens).toEqual(expected);
    expect(recovered.every((count) => count > 15)).toBe(true);
  });

  it("computes lost tokens of the answer again as dynamic NTK saw them", async () => {
    const rope = { rope_scaling: { rope_type: "dynamic", factor: 4 }, max_position_embeddings: 16 };
    const model = await tiny("dynamic", rope);
    const short = prompt.slice(0, 20);
    const { signal } = new AbortController();
    const floats = (layers: readonly Uint8Array<ArrayBuffer>[]) =>
      layers.flatMap((bytes) => [...new Float32Array(bytes.buffer)]);
    await withRing(model, 3, {}, (ring) =>
      ring.generate(short, { maxNewTokens: 14 }, async (count, ids) => {
        if (count !== 13) return;
        const kept = [...positionsOf(ring.runs[0]!.held)].filter((position) => position >= short.length);
        expect(kept.length).toBeGreaterThan(2);
        const before: number[][] = [];
        for (const position of kept)
          before.push(floats((await ring.runs[0]!.exportTokens([span(position, 1)], signal)).layers));
        ring.leave(0);
        await ring.recover(ids, ids.length - 1, short.length);
        for (const [index, position] of kept.entries()) {
          const holder = ring.runs.find((run) => [...positionsOf(run.held)].includes(position))!;
          const again = floats((await holder.exportTokens([span(position, 1)], signal)).layers);
          for (const [i, value] of before[index]!.entries())
            expect(Math.abs(again[i]! - value), `position ${position}`).toBeLessThan(1e-4);
        }
      }),
    );
  });

  it("goes on with tokens that moved from rank to rank", async () => {
    const model = await sliding();
    const expected = await onePage(model, prompt, { maxNewTokens: 8 });
    const { signal } = new AbortController();
    const tokens = await withRing(model, 3, {}, (ring) =>
      ring.generate(prompt, { maxNewTokens: 8 }, async (count) => {
        if (count !== 3) return;
        const [first, second] = [ring.runs[0]!, ring.runs[1]!];
        const all = await second.exportTokens(second.held, signal);
        // Every other token goes; as it was made, a copy holds what the original does.
        const some = [span(all.ranges[0]!.start, 5)];
        const few = await second.exportTokens(some, signal);
        await second.drop(some);
        await first.importTokens(few, signal);
        expect(tokenCount(second.held)).toBe(tokenCount(all.ranges) - 5);
        const back = await first.exportTokens(some, signal);
        expect(back.layers).toEqual(few.layers);
        const rest = await second.exportTokens(second.held, signal);
        await second.drop();
        expect(second.held).toEqual([]);
        expect(second.gpuBytes).toBe(0);
        await ring.runs[2]!.importTokens(rest, signal);
      }),
    );
    expect(tokens).toEqual(expected);
  });

  it("is as before an operation that was aborted, or failed, wherever it was", async () => {
    const model = await sliding();
    const expected = await onePage(model, prompt, { maxNewTokens: 4 });
    const device = await testDevice();
    await withRing(model, 3, {}, async (ring) => {
      const ids = [...prompt];
      await ring.prefill(ids, 0, 40, prompt.length);
      const before = ring.runs.map(({ held, gpuBytes }) => ({ held, gpuBytes }));
      const tokens = ring.shard(40, 34);
      for (const layer of [0, 1]) {
        const abort = new AbortController();
        const reason = new Error("enough");
        const onSteps = (rank: number, done: number) => {
          if (rank === 1 && done === layer) abort.abort(reason);
        };
        await expect(ring.forward(ids, tokens, { signal: abort.signal, onSteps })).rejects.toBe(reason);
        expect(() => ring.runs[1]!.commit()).toThrow("roll back");
        ring.rollback();
        ring.newEpoch();
        expect(ring.runs.map(({ held, gpuBytes }) => ({ held, gpuBytes }))).toEqual(before);
      }
      await ring.prefill(ids, 40, 74, prompt.length);
      const full = ledgerOf(device).total.bytes;
      const abort = new AbortController();
      const failing = ring.runs[1]!;
      await expect(
        ring.runs[0]!.lead(
          ids[74]!,
          74,
          false,
          {
            ask: async (layer, query, key, value) => {
              if (layer === 2) throw new Error("a peer has gone");
              return failing.answer(layer, 74, query, { key, value }, abort.signal);
            },
          },
          abort.signal,
        ),
      ).rejects.toThrow("a peer has gone");
      expect(() => failing.commit()).toThrow("went through all layers");
      ring.rollback();
      const answer: number[] = [];
      for (let count = 0; count < 4; count++) {
        const logits = await ring.decode(ids.at(-1)!, ids.length - 1);
        answer.push(logits.indexOf(Math.max(...logits)));
        ids.push(answer.at(-1)!);
      }
      expect(answer).toEqual(expected);
      expect(ledgerOf(device).total.bytes - full).toBeLessThan(100_000);
    });
  });

  it("gives all memory back, also when it is released in the middle of an operation", async () => {
    const model = await sliding();
    const device = await testDevice();
    await withRing(model, 2, {}, (ring) => ring.generate(prompt, { maxNewTokens: 1 }));
    const before = ledgerOf(device).total.bytes;
    const ring = await RankRing.open(model, 2, { pageSize });
    await ring.prefill(prompt, 0, 32, prompt.length);
    const running = ring.forward(prompt, ring.shard(32, 30), { onSteps: () => ring.release() });
    await expect(running).rejects.toThrow(DestroyedError);
    ring.rollback();
    expect(ledgerOf(device).total.bytes).toBe(before);
    await expect(ring.forward(prompt, ring.shard(0, 4))).rejects.toThrow(DestroyedError);
  });

  it("holds its share of the context and no more, however many ranks there are", async () => {
    const model = await tiny("one layer", { num_hidden_layers: 1 });
    const perRank: number[] = [];
    for (const worldSize of [1, 2, 3]) {
      const ids = Array.from({ length: worldSize * 1024 + 1 }, (_, index) => 3 + (index % 50));
      await withRing(model, worldSize, { pageSize: 64, opTokens: 512 * worldSize }, async (ring) => {
        await ring.generate(ids, { maxNewTokens: 2 });
        perRank.push(Math.max(...ring.runs.map(({ memory }) => memory.peakBytes)));
        for (const { gpuBytes, memory } of ring.runs) expect(memory.bytes).toBeGreaterThanOrEqual(gpuBytes);
      });
    }
    expect(Math.max(...perRank) / Math.min(...perRank)).toBeLessThan(1.1);
  });

  it("refuses plans that do not fit, on every rank alike", async () => {
    const model = await sliding();
    await withRing(model, 2, { chunkSize: 8 }, async (ring) => {
      await expect(ring.forward(prompt, [[], [span(0, 9)]])).rejects.toThrow("at most 8 tokens per rank");
      await expect(ring.forward(prompt, [[span(0, 4)], [span(3, 4)]])).rejects.toThrow("got 3 twice");
      await expect(ring.forward(prompt, [[span(0, 4)]])).rejects.toThrow("tokens of 2 ranks");
      await expect(ring.forward([1, 2, 99], [[span(2, 1)], []])).rejects.toThrow("an id from 0 to 60 at position 2");
      ring.rollback();
      await ring.forward(prompt, [[span(0, 4)], [span(4, 4)]]);
      await expect(ring.forward(prompt, [[span(8, 4)], []])).rejects.toThrow("to be committed or rolled back");
      ring.commit();
      const run = ring.runs[0]!;
      await expect(run.exportTokens([span(3, 2)], new AbortController().signal)).rejects.toThrow(OptionError);
      expect(ring.runs.map(({ held }) => tokenCount(held))).toEqual([4, 4]);
    });
  });

  it("says that its device was lost, whatever it waits for", async () => {
    const device = await requestRingwiseDevice();
    const model = await loadModel(randomModel("lost").files, { device });
    const run = await openRank(model, { pageSize });
    const never = new Promise<never>(() => {});
    const leading = run.lead(5, 0, true, { ask: () => never }, new AbortController().signal);
    setTimeout(() => device.destroy(), 100);
    await expect(leading).rejects.toThrow(DeviceLostError);
    run.rollback();
    await expect(run.lead(5, 0, true, { ask: () => never }, new AbortController().signal)).rejects.toThrow(
      DeviceLostError,
    );
    await expect(openRank(model)).rejects.toThrow(DeviceLostError);
    run.release();
  });
});

describe("the default model on a ring of rank runs", () => {
  it("answers as on one page, with a rank lost on the way", async () => {
    const model = await modelOf("default", async () =>
      loadModel(new URL("/models/default/", location.href), { device: await testDevice() }),
    );
    const ids = model.tokenize("The quick brown fox jumps over the lazy dog. The quick brown fox ").slice(0, 60);
    const expected = await onePage(model, ids, { maxNewTokens: 8 });
    const tokens = await withRing(model, 3, {}, (ring) =>
      ring.generate(ids, { maxNewTokens: expected.length }, async (count, all) => {
        if (count !== 2) return;
        ring.leave(2);
        await ring.recover(all, all.length - 1, ids.length);
      }),
    );
    expect(expected.length).toBeGreaterThan(2);
    expect(tokens).toEqual(expected);
  });
});
