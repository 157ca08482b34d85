/** Runs of `generate` as people meet them: bad input, abort, destroy, memory, sampling, text, progress. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { loadModel, loadPreset } from "../../src/model/load-model.ts";
import type { GenerateOptions, GenerateProgress, Model, Prompt, RingOptions } from "../../src/model/types.ts";
import { randomModel, testDevice } from "./model-fixtures.ts";

async function collect(model: Model, prompt: Prompt, options?: GenerateOptions) {
  const run = model.generate(prompt, options);
  const tokenIds: number[] = [];
  let text = "";
  for await (const piece of run) {
    tokenIds.push(piece.tokenId);
    text += piece.text;
  }
  return { tokenIds, text, statistics: run.statistics };
}

const noStop = { eos_token_id: null };

describe("generate", () => {
  let device: GPUDevice;
  let model: Model;
  const held = () => ledgerOf(device).total.bytes;

  beforeAll(async () => {
    device = await testDevice();
    model = await loadModel(randomModel("small", noStop).files, { device, ring: { worldSize: 3 } });
  });
  afterAll(() => model.destroy());

  it("refuses bad options and prompts at once, by name", () => {
    const refuses = (prompt: Prompt, options: GenerateOptions, message: string) =>
      expect(() => model.generate(prompt, options)).toThrow(
        expect.objectContaining({ name: "OptionError", message: expect.stringContaining(message) }),
      );
    refuses([5, 61], {}, "expected token ids from 0 to 60 (the vocabulary has 61), got 61");
    refuses([-1], {}, "got -1");
    refuses([1.5], {}, "got 1.5");
    refuses([Number.NaN], {}, "got NaN");
    refuses([1], { maxNewTokens: -1 }, "expected maxNewTokens to be an integer of at least 0, got -1");
    refuses([1], { temperature: Number.NaN }, "expected temperature to be a number of at least 0, got NaN");
    refuses([1], { topP: 0 }, "expected topP to be a number above 0 and at most 1, got 0");
    refuses([1], { topK: 1.5 }, "expected topK to be an integer of at least 0, got 1.5");
    refuses([1], { prefillChunkSize: 0 }, "expected prefillChunkSize to be an integer of at least 1, got 0");
    refuses([1], { stopIds: [99] }, "expected each of stopIds to be an integer from 0 to 60, got 99");
    refuses([{ role: "user", content: "hi" }], {}, "this model has no chat template");
    refuses(7 as unknown as Prompt, {}, "expected a prompt of text, token ids or chat messages, got 7");
  });

  it("refuses tokens that the tokenizer knows and the embedding does not", async () => {
    const refusal = {
      name: "OptionError",
      message: expect.stringContaining('(config.json\'s vocab_size is 61), got token "<pad>" with id 61'),
    };
    const before = held();
    await expect(collect(model, "ab<pad>c")).rejects.toMatchObject(refusal);
    await expect(model.logits("<pad>")).rejects.toMatchObject(refusal);
    expect(held()).toBe(before);
  });

  it("takes an empty prompt as BOS alone, and refuses it where none is added", async () => {
    const bos = await collect(model, [1], { maxNewTokens: 4 });
    expect((await collect(model, "", { maxNewTokens: 4 })).tokenIds).toEqual(bos.tokenIds);
    expect((await collect(model, [], { maxNewTokens: 4 })).tokenIds).toEqual(bos.tokenIds);
    for (const prompt of ["", []])
      await expect(collect(model, prompt, { addBos: false })).rejects.toThrow(
        "generate: expected a prompt of at least one token, got an empty one, and no BOS is added (addBos is false)",
      );
    expect(bos.statistics.promptTokens).toBe(1);
  });

  it("runs prompts longer than the model's trained positions", async () => {
    const ids = Array.from({ length: 150 }, (_, index) => (index * 7 + 3) % 61);
    const { tokenIds } = await collect(model, ids, { maxNewTokens: 3, prefillChunkSize: 64 });
    expect(tokenIds).toHaveLength(3);
  });

  it("gives all GPU memory back, run after run", async () => {
    await collect(model, "abcdef", { maxNewTokens: 3 });
    const before = held();
    for (let run = 0; run < 3; run++) {
      const { statistics } = await collect(model, "abcdefgh", { maxNewTokens: 5, prefillChunkSize: 3 });
      expect(held()).toBe(before);
      expect(statistics.peakGpuBytes).toBeGreaterThan(before);
      for (const rank of statistics.ring.ranks) expect(rank.gpuBytes).toBeGreaterThan(0);
    }
    for await (const _piece of model.generate("abc", { maxNewTokens: 50 })) break;
    expect(held()).toBe(before);
  });

  it("destroys every GPU buffer that a run makes, also those outside of the ledger", async () => {
    const { createBuffer } = device;
    const live = new Set<string>();
    let made = 0;
    device.createBuffer = (descriptor) => {
      const buffer = createBuffer.call(device, descriptor);
      const { destroy } = buffer;
      const name = `${descriptor.label} ${made++}`;
      live.add(name);
      buffer.destroy = () => {
        live.delete(name);
        return destroy.call(buffer);
      };
      return buffer;
    };
    try {
      for (let run = 0; run < 3; run++) await collect(model, "abcdef", { maxNewTokens: 4, temperature: run % 2 });
    } finally {
      device.createBuffer = createBuffer;
    }
    expect(made).toBeGreaterThan(20);
    expect([...live]).toEqual([]);
  });

  it("stops at an abort, wherever it comes, and stays usable", async () => {
    const reason = new Error("enough");
    const expected = (await collect(model, "abc", { maxNewTokens: 6 })).tokenIds;
    const ids = Array.from({ length: 100 }, () => 5);
    // The ring's workspace grows to the largest chunk and stays.
    await collect(model, ids, { maxNewTokens: 1, prefillChunkSize: 10 });
    const before = held();

    const early = new AbortController();
    early.abort(reason);
    await expect(collect(model, "abc", { signal: early.signal })).rejects.toBe(reason);

    const prefilling = new AbortController();
    const onProgress = (progress: GenerateProgress) => progress.type === "ring" && prefilling.abort(reason);
    const options = { signal: prefilling.signal, onProgress, prefillChunkSize: 10 };
    await expect(collect(model, ids, options)).rejects.toBe(reason);

    const decoding = new AbortController();
    const run = model.generate("abc", { maxNewTokens: 50, signal: decoding.signal });
    const got: number[] = [];
    await expect(
      (async () => {
        for await (const piece of run) if (got.push(piece.tokenId) === 3) decoding.abort(reason);
      })(),
    ).rejects.toBe(reason);
    expect(got).toEqual(expected.slice(0, 3));
    expect(run.statistics.stopReason).toBe("aborted");
    expect(run.statistics.newTokens).toBe(3);

    // The iteration is held and never resumed: the abort alone gives the memory back and frees the model.
    const held1 = new AbortController();
    const iterator = model.generate("abc", { signal: held1.signal })[Symbol.asyncIterator]();
    await iterator.next();
    held1.abort(reason);
    expect((await collect(model, "abc", { maxNewTokens: 6 })).tokenIds).toEqual(expected);
    await expect(iterator.next()).rejects.toBe(reason);
    expect(held()).toBe(before);
  });

  it("refuses a second run while one goes on", async () => {
    const first = model.generate("abc", { maxNewTokens: 3 })[Symbol.asyncIterator]();
    await first.next();
    const busy = { name: "OptionError", message: expect.stringContaining("to be idle, got a run in progress") };
    await expect(collect(model, "abc")).rejects.toMatchObject(busy);
    await expect(model.setRing({ worldSize: 2 })).rejects.toMatchObject(busy);
    await first.return?.();
    expect((await collect(model, "abc", { maxNewTokens: 3 })).tokenIds).toHaveLength(3);
  });

  it("refuses to iterate one generation twice", async () => {
    const run = model.generate("abc", { maxNewTokens: 2 });
    for await (const piece of run) expect(piece.tokenId).toBeGreaterThanOrEqual(0);
    const again = async () => {
      for await (const _piece of run);
    };
    await expect(again()).rejects.toMatchObject({
      name: "OptionError",
      message: expect.stringContaining("expected one iteration over a generation, got a second one"),
    });
  });

  it("samples by seed, and greedily at temperature 0", async () => {
    const options = { maxNewTokens: 12, temperature: 1.5, topP: 0.95, topK: 40 };
    const one = await collect(model, "abc", { ...options, seed: 1 });
    expect((await collect(model, "abc", { ...options, seed: 1 })).tokenIds).toEqual(one.tokenIds);
    expect((await collect(model, "abc", { ...options, seed: 2 })).tokenIds).not.toEqual(one.tokenIds);
    const greedy = await collect(model, "abc", { maxNewTokens: 12 });
    expect((await collect(model, "abc", { ...options, topK: 1 })).tokenIds).toEqual(greedy.tokenIds);
  });

  it("ends at a stop id, which is no part of the answer", async () => {
    const { tokenIds } = await collect(model, "abc", { maxNewTokens: 12 });
    const stop = tokenIds[4]!;
    const stopped = await collect(model, "abc", { maxNewTokens: 12, stopIds: [stop] });
    expect(stopped.tokenIds).toEqual(tokenIds.slice(0, tokenIds.indexOf(stop)));
    expect(stopped.statistics.stopReason).toBe("stopId");
  });

  it("stops at an abort while the GPU works on and on, on one rank too", async () => {
    const own = await requestRingwiseDevice();
    const flash = await loadModel(randomModel("flash", noStop).files, { device: own, ring: { attention: "flash" } });
    const reason = new Error("enough");
    const controller = new AbortController();
    const run = collect(flash, "abcdef", { signal: controller.signal });
    run.catch(() => {});
    let isWaiting = false;
    own.queue.onSubmittedWorkDone = () => {
      isWaiting = true;
      return new Promise(() => {});
    };
    await expect.poll(() => isWaiting).toBe(true);
    controller.abort(reason);
    await expect(run).rejects.toBe(reason);
    flash.destroy();
    own.destroy();
  }, 20_000);

  it("gives a piece per token and none for the stop id, also in the middle of a character", async () => {
    const bytes = await loadModel(randomModel("bytes", noStop, { isBytes: true }).files, { device });
    const { tokenIds, text } = await collect(bytes, [1, 5, 9], { maxNewTokens: 12 });
    expect(tokenIds).toHaveLength(12);
    expect(text).toBe(bytes.detokenize(tokenIds));
    expect(text).toContain("\uFFFD");
    const end = tokenIds.findIndex((id, index) => index >= 3 && tokenIds.indexOf(id) === index);
    expect(end).toBeGreaterThan(0);
    const stopped = await collect(bytes, [1, 5, 9], { maxNewTokens: 12, stopIds: [tokenIds[end]!] });
    expect(stopped.tokenIds).toEqual(tokenIds.slice(0, end));
    expect(stopped.text).toBe(bytes.detokenize(tokenIds.slice(0, end)));
    expect(stopped.statistics.newTokens).toBe(end);
    bytes.destroy();
  });

  it("streams the text of its tokens, and tells its progress and figures", async () => {
    const events: GenerateProgress[] = [];
    const { tokenIds, text, statistics } = await collect(model, "abcdefghij", {
      maxNewTokens: 6,
      prefillChunkSize: 4,
      onProgress: (event) => events.push(event),
    });
    expect(text).toBe(model.detokenize(tokenIds));
    const prefill = events.filter((event) => event.type === "prefill");
    expect(prefill.map((event) => event.doneTokens)).toEqual([0, 4, 8, 11]);
    expect(prefill.at(-1)).toMatchObject({ totalTokens: 11, secondsLeft: 0 });
    const rings = events.filter((event) => event.type === "ring");
    // Chunks of 4, 4 and 3: the last layer is needed for the prompt's end alone.
    expect(rings.map((event) => event.layer)).toEqual([0, 1, 0, 1, 0, 1, 2]);
    for (const event of rings) expect(event.layerCount).toBe(3);
    expect(statistics).toMatchObject({ promptTokens: 11, newTokens: 6, stopReason: "maxNewTokens" });
    expect(statistics.prefillTokensPerSecond).toBeGreaterThan(0);
    expect(statistics.decodeTokensPerSecond).toBeGreaterThan(0);
    expect(statistics.timeToFirstTokenMs).toBeGreaterThan(0);
    expect(statistics.exposedShare).toBeGreaterThanOrEqual(0);
    expect(statistics.ring.ranks.map((rank) => rank.kvTokens).reduce((a, b) => a + b)).toBe(16);
  });
});

it("does not count the time that the caller takes over a piece as time of decoding", async () => {
  const model = await loadModel(randomModel("slow", noStop).files, { device: await testDevice() });
  const holdMs = 400;
  for (const temperature of [0, 1]) {
    const run = model.generate("abc", { maxNewTokens: 3, temperature });
    for await (const _piece of run) await new Promise((resolve) => setTimeout(resolve, holdMs));
    // With the caller's time in it, it could not be more than 1000 / holdMs.
    expect(run.statistics.decodeTokensPerSecond).toBeGreaterThan((1000 / holdMs) * 1.5);
  }
  model.destroy();
});

it("asks for a decode step's room in all layers at once", async () => {
  const device = await requestRingwiseDevice();
  const model = await loadModel(randomModel("room", noStop).files, { device, ring: { worldSize: 2 } });
  const { popErrorScope, createBuffer } = device;
  let open = 0;
  let mostOpen = 0;
  device.popErrorScope = () => {
    mostOpen = Math.max(mostOpen, ++open);
    return popErrorScope.call(device).finally(() => open--);
  };
  // The second token is the first of rank 1. Temperature 1: no step ahead of what is given out.
  const options = { maxNewTokens: 2, temperature: 1 };
  expect((await collect(model, [1], options)).tokenIds).toHaveLength(2);
  // Two scopes an allocation, 3 layers.
  expect(mostOpen).toBe(6);
  // No room in one layer: nothing is left of the others.
  const held = ledgerOf(device).total.bytes;
  const refused = (async () => {
    for await (const _piece of model.generate([1], options))
      device.createBuffer = (descriptor) => {
        if (descriptor.label?.includes("layer 1")) throw new RangeError("no room");
        return createBuffer.call(device, descriptor);
      };
  })();
  await expect(refused).rejects.toThrow();
  expect(ledgerOf(device).total.bytes).toBe(held);
  model.destroy();
  device.destroy();
});

it("takes defaults for what a new ring leaves out", async () => {
  const device = await testDevice();
  const ring = { worldSize: 3, layout: "striped", blockMemory: "host" } as const;
  const model = await loadModel(randomModel("other", noStop).files, { device, ring });
  await model.setRing({ worldSize: 2 });
  expect(model.ring).toEqual({ worldSize: 2, layout: "zigzag", blockMemory: "gpu", attention: "ring" });
  model.destroy();
});

describe("prefill token by token", () => {
  for (const blockMemory of ["gpu", "host"] as const)
    it(`tells its ring steps as any chunk does, ${blockMemory} blocks`, async () => {
      const device = await testDevice();
      const model = await loadModel(randomModel("single", noStop).files, {
        device,
        ring: { worldSize: 2, blockMemory },
      });
      const layers: number[] = [];
      const onProgress = (event: GenerateProgress) => {
        if (event.type !== "ring") return;
        layers.push(event.layer);
        for (const step of event.steps) expect(step.queryTokens).toBeLessThanOrEqual(1);
        expect(event.steps.some((step) => step.queryTokens === 1)).toBe(true);
      };
      const options = { maxNewTokens: 4, onProgress };
      const { tokenIds, statistics } = await collect(model, [1, 5, 9], { ...options, prefillChunkSize: 1 });
      // Decode tells no steps: its query visits the ranks.
      expect(layers).toEqual([0, 1, 0, 1, 0, 1, 2]);
      expect(statistics.ring.ranks.some((rank) => rank.computeMs > 0)).toBe(true);
      expect((await collect(model, [1, 5, 9], { maxNewTokens: 4 })).tokenIds).toEqual(tokenIds);
      model.destroy();
    });
});

describe("loading and ending", () => {
  it("holds nothing after destroy, also during a run, and says so", async () => {
    const device = await testDevice();
    const before = ledgerOf(device).total.bytes;
    const model = await loadModel(randomModel("gone", noStop).files, { device, ring: { worldSize: 2 } });
    expect(ledgerOf(device).total.bytes).toBeGreaterThan(before);
    const got: number[] = [];
    await expect(
      (async () => {
        for await (const piece of model.generate("abc", { maxNewTokens: 50 }))
          if (got.push(piece.tokenId) === 2) model.destroy();
      })(),
    ).rejects.toMatchObject({ name: "DestroyedError" });
    expect(got).toHaveLength(2);
    model.destroy();
    expect(ledgerOf(device).total.bytes).toBe(before);
    expect(() => model.generate("abc")).toThrow("expected a usable model, got a destroyed one");
  });

  it("holds nothing after an abort at any moment of loading", async () => {
    const device = await testDevice();
    const { files } = randomModel("aborted");
    (await loadModel(files, { device })).destroy();
    const before = ledgerOf(device).total.bytes;
    let events = 0;
    (await loadModel(files, { device, onProgress: () => events++ })).destroy();
    for (const when of [1, 2, 3, 5, events - 2, events]) {
      const controller = new AbortController();
      const reason = new Error(`at event ${when}`);
      let seen = 0;
      const onProgress = () => ++seen === when && controller.abort(reason);
      const loading = loadModel(files, { device, signal: controller.signal, onProgress });
      if (when < events) await expect(loading).rejects.toBe(reason);
      else (await loading).destroy();
      // What a compile in progress takes goes back when that ends.
      await expect.poll(() => ledgerOf(device).total.bytes).toBe(before);
    }
  });

  it("stops loading at once, also while kernels compile that never end", async () => {
    const device = await requestRingwiseDevice();
    const { createComputePipelineAsync } = device;
    const reason = new Error("enough");
    (await loadModel(randomModel("compiled").files, { device })).destroy();
    const before = ledgerOf(device).total.bytes;
    // Another head size and type: other kernels than those that are compiled by now.
    const { files } = randomModel("compiling", { head_dim: 10 }, { dtype: "BF16" });
    for (const message of ["Compiling attention", "Compiling layers"]) {
      let compileOn = () => {};
      const gate = new Promise<void>((resolve) => {
        compileOn = resolve;
      });
      let waiting = 0;
      let isGated = false;
      device.createComputePipelineAsync = async (descriptor) => {
        waiting++;
        if (isGated) await gate;
        return createComputePipelineAsync.call(device, descriptor);
      };
      const controller = new AbortController();
      const onProgress = (progress: { message: string }) => {
        isGated ||= progress.message === message;
      };
      const loading = loadModel(files, { device, signal: controller.signal, onProgress });
      await expect.poll(() => isGated && waiting > 0, { timeout: 60_000 }).toBe(true);
      const abortMs = performance.now();
      controller.abort(reason);
      await expect(loading).rejects.toBe(reason);
      expect(performance.now() - abortMs).toBeLessThan(2000);
      compileOn();
      await expect.poll(() => ledgerOf(device).total.bytes, { timeout: 60_000 }).toBe(before);
    }
    device.destroy();
  });

  it("refuses what it does not support before it reads weights", async () => {
    const device = await testDevice();
    const { files } = randomModel("strange");
    const config = { ...JSON.parse(new TextDecoder().decode(await files.read("config.json"))), model_type: "mamba" };
    const reads: string[] = [];
    const strange = {
      ...files,
      read: async (path: string) => {
        reads.push(path);
        return new TextEncoder().encode(JSON.stringify({ ...config, architectures: ["MambaForCausalLM"] }));
      },
    };
    await expect(loadModel(strange, { device })).rejects.toMatchObject({
      name: "UnsupportedModelError",
      message: expect.stringContaining("MambaForCausalLM"),
    });
    expect(reads).not.toContain("model.safetensors");
    await expect(loadModel(files, {} as never)).rejects.toThrow("loadModel: expected options.device to be a GPUDevice");
    const load = (ring: RingOptions) => loadModel(files, { device, ring });
    await expect(load({ worldSize: 65 })).rejects.toThrow("ring.worldSize");
    await expect(load({ blockMemory: "host", attention: "vanilla" })).rejects.toThrow(
      'with ring.attention "vanilla" (only "ring" streams blocks from the host), got "host"',
    );
    using model = await load({ worldSize: 4, attention: "flash" });
    expect(model.ring.worldSize).toBe(1);
  });

  it("says that the device was lost, in a run and in loading", async () => {
    const device = await requestRingwiseDevice();
    const before = ledgerOf(device).total.bytes;
    const { files } = randomModel("lost", noStop);
    const model = await loadModel(files, { device });
    const run = model.generate("abc", { maxNewTokens: 50 });
    await expect(
      (async () => {
        for await (const _piece of run) device.destroy();
      })(),
    ).rejects.toMatchObject({ name: "DeviceLostError" });
    await expect(loadModel(files, { device })).rejects.toMatchObject({ name: "DeviceLostError" });
    model.destroy();
    expect(ledgerOf(device).total.bytes - before).toBeLessThanOrEqual(2 ** 20 + 4096); // the device's own uniforms
  });

  it("says so when logits are no numbers", async () => {
    const device = await testDevice();
    const { files } = randomModel("nan", noStop, {
      corrupt: { name: "model.layers.1.mlp.up_proj.weight", value: NaN },
    });
    const model = await loadModel(files, { device });
    for (const temperature of [0, 1])
      await expect(collect(model, "abc", { temperature })).rejects.toMatchObject({
        name: "ModelFormatError",
        message: expect.stringContaining("expected logits to be numbers, got NaN"),
      });
    model.destroy();
  });

  it("answers a conversation through the model's chat template", async () => {
    const device = await testDevice();
    const chatTemplate = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>";
    const model = await loadModel(randomModel("chat", noStop, { chatTemplate }).files, { device });
    expect(model.hasChatTemplate).toBe(true);
    const chat = await collect(model, [{ role: "user", content: "hi" }], { maxNewTokens: 5 });
    const ids = [1, ...model.tokenize("[user]hi>", { addBos: false })];
    expect(chat.statistics.promptTokens).toBe(ids.length);
    expect(chat.tokenIds).toEqual((await collect(model, ids, { maxNewTokens: 5 })).tokenIds);
    model.destroy();
  });

  it("runs a preset with random weights on ids", async () => {
    const device = await testDevice();
    const model = await loadPreset("debug", { device, ring: { worldSize: 2 } });
    const { tokenIds, text } = await collect(model, [5, 6, 7], { maxNewTokens: 3 });
    expect(tokenIds).toHaveLength(3);
    expect(text).toBe("");
    expect(() => model.generate("text")).toThrow("expected token ids, since this model has no tokenizer");
    model.destroy();
  });
});
