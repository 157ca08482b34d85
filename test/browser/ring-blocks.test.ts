import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DestroyedError, DeviceLostError, OptionError, ShapeError } from "../../src/errors.ts";
import { allocate, read, release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { lossSignal } from "../../src/gpu/device-loss.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import type { KvBlock } from "../../src/ring/kv-block.ts";
import { createRingAttention } from "../../src/ring/ring-attention.ts";
import type { RingAttention, RingAttentionOptions } from "../../src/ring/ring-types.ts";
import type { BlockMemory, RingLayout, RingStep } from "../../src/ring/types.ts";
import { type AttentionInputs, expectClose, expected, makeInputs } from "../attention-harness.ts";
import type { AttentionCase } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

/** A sequence that is prefilled chunk by chunk and then decoded token by token. */
const sequence = (tokens: number, rest: Partial<AttentionCase> = {}): AttentionCase => ({
  ...{ name: "chunks", use: "test", batch: 1, seqLen: tokens, kvSeqLen: tokens, heads: 4, kvHeads: 2, headDim: 4 },
  ...{ dtype: "f32", isCausal: true },
  ...rest,
});

/** Q, K, V, output of a case on the GPU, and views of a run of their tokens. */
async function uploadTokens(c: AttentionCase, inputs: AttentionInputs) {
  const { heads, kvHeads, headDim, valueDim = headDim, seqLen } = c;
  const buffers = {
    query: await upload(device, "query", inputs.query),
    key: await upload(device, "key", inputs.key),
    value: await upload(device, "value", inputs.value),
    output: await allocate(device, { label: "output", byteLength: seqLen * heads * valueDim * 4 }),
  };
  const sinks = inputs.sinks && (await upload(device, "sinks", inputs.sinks));
  const rows = { query: heads * headDim, key: kvHeads * headDim, value: kvHeads * valueDim, output: heads * valueDim };
  const view = (name: keyof typeof buffers, start: number, count: number) => ({
    buffer: buffers[name],
    byteOffset: start * rows[name] * 4,
    byteLength: count * rows[name] * 4,
  });
  return {
    span: (start: number, count: number) => ({ start, count }),
    kv: (start: number, count: number) => ({
      start,
      count,
      key: view("key", start, count),
      value: view("value", start, count),
    }),
    queries: (start: number, count: number, lse?: GPUBuffer) => ({
      ...{ start, count, lse, sinks, query: view("query", start, count), output: view("output", start, count) },
    }),
    output: async () =>
      new Float32Array(await read(device, { buffer: buffers.output, byteLength: seqLen * rows.output * 4 })),
    destroy: () => [...Object.values(buffers), sinks].forEach(release),
  };
}

const ringOptions = (c: AttentionCase, ring: Partial<RingAttentionOptions>): RingAttentionOptions => ({
  ...{ heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim, valueDim: c.valueDim, isCausal: c.isCausal },
  ...{ window: c.window, hasSinks: c.hasSinks, causalBlockSize: c.causalBlockSize },
  ...ring,
});

async function collect(steps: AsyncIterable<RingStep>): Promise<RingStep[]> {
  const list: RingStep[] = [];
  for await (const step of steps) list.push(step);
  return list;
}

async function runCase(c: AttentionCase, chunks: readonly number[], ring: Partial<RingAttentionOptions>) {
  const inputs = makeInputs(c);
  const gpu = await uploadTokens(c, inputs);
  const attention = await createRingAttention(device, ringOptions(c, ring));
  const blocks = attention.createBlocks();
  const lse = await allocate(device, { label: "lse", byteLength: c.seqLen * c.heads * 4 });
  const gotLse = new Float32Array(c.heads * c.seqLen);
  const keepLse = async (start: number, count: number) => {
    const part = new Float32Array(await read(device, { buffer: lse, byteLength: c.heads * count * 4 }));
    for (let h = 0; h < c.heads; h++) gotLse.set(part.subarray(h * count, (h + 1) * count), h * c.seqLen + start);
  };
  let start = 0;
  for (const count of chunks) {
    await attention.append(blocks, gpu.kv(start, count));
    const steps = await collect(attention.attend({ ...gpu.queries(start, count, lse), blocks }));
    expect(steps).toHaveLength(attention.worldSize ** 2);
    await keepLse(start, count);
    start += count;
  }
  for (; start < c.seqLen; start++) {
    if (attention.blockMemory === "gpu") {
      await attention.reserve(blocks, gpu.span(start, 1));
      const encoder = device.createCommandEncoder();
      attention.encodeAppend(encoder, blocks, gpu.kv(start, 1));
      attention.encodeDecode(encoder, { ...gpu.queries(start, 1, lse), blocks });
      device.queue.submit([encoder.finish()]);
    } else {
      await attention.append(blocks, gpu.kv(start, 1));
      await attention.decode({ ...gpu.queries(start, 1, lse), blocks });
    }
    await keepLse(start, 1);
  }
  expectClose({ output: await gpu.output(), lse: gotLse }, expected(c, inputs), expected(c, inputs, "f32"), "f32");
  const held = blocks.map((block) => block.tokenCount);
  if (c.window) expect(Math.max(...held)).toBeLessThan(c.window + 2 * attention.pageSize);
  else expect(held.reduce((sum, tokens) => sum + tokens, 0)).toBe(c.seqLen);
  if (!c.window) expect(Math.max(...held) - Math.min(...held)).toBeLessThanOrEqual(1);
  for (const block of blocks) block.release();
  attention.destroy();
  gpu.destroy();
  release(lse);
}

describe("chunked prefill and decode equal the oracle over the whole sequence", () => {
  const worlds = [1, 2, 4, 7];
  const layouts: RingLayout[] = ["contiguous", "zigzag", "striped"];
  const memories: BlockMemory[] = ["gpu", "host"];
  const cases = worlds.flatMap((worldSize) =>
    layouts.flatMap((layout) => memories.map((blockMemory) => [worldSize, layout, blockMemory] as const)),
  );
  it.each(cases)("%i ranks, %s, %s", async (worldSize, layout, blockMemory) => {
    await runCase(sequence(75), [29, 1, 33], { worldSize, layout, blockMemory, pageSize: 5 });
  });

  it.each(memories)("a window that is shorter than a chunk, and pages that are used again, %s", async (blockMemory) => {
    await runCase(sequence(120, { window: 7 }), [33, 30, 1, 28], {
      worldSize: 2,
      layout: "striped",
      blockMemory,
      pageSize: 4,
    });
  });

  it.each(memories)("a sliding window and sinks, %s", async (blockMemory) => {
    const c = sequence(70, { window: 13, hasSinks: true });
    await runCase(c, [40, 20], { worldSize: 3, layout: "zigzag", blockMemory, pageSize: 4 });
  });

  it.each(memories)("one chunk of everything, rows that are not vec4s, %s", async (blockMemory) => {
    const c = sequence(50, { headDim: 3, valueDim: 5, heads: 3, kvHeads: 3 });
    await runCase(c, [50], { worldSize: 4, layout: "contiguous", blockMemory, pageSize: 3 });
  });

  it.each(memories)("chunks of one token on more ranks than tokens, %s", async (blockMemory) => {
    await runCase(sequence(9), [1, 1, 1, 1], { worldSize: 64, layout: "zigzag", blockMemory, pageSize: 2 });
  });
});

describe("memory", () => {
  /** Peak bytes of a prefill of so many tokens in chunks, counted from before the ring was made. */
  async function peakBytes(tokens: number, blockMemory: BlockMemory) {
    const c = sequence(tokens);
    const chunk = 64;
    const inputs = makeInputs({ ...c, seqLen: chunk, kvSeqLen: chunk });
    const gpu = await uploadTokens({ ...c, seqLen: chunk }, inputs);
    const ledger = ledgerOf(device);
    const before = ledger.total.bytes;
    ledger.resetPeaks();
    const attention = await createRingAttention(device, ringOptions(c, { worldSize: 4, blockMemory, pageSize: 32 }));
    const blocks = attention.createBlocks();
    for (let start = 0; start < tokens; start += chunk) {
      await attention.append(blocks, { ...gpu.kv(0, chunk), start });
      await collect(attention.attend({ ...gpu.queries(0, chunk), start, blocks }));
    }
    const perRank = attention.memory();
    expect(perRank).toHaveLength(4);
    expect(perRank.every((use) => use.peakBytes >= use.bytes && use.bytes >= blocks[0]!.gpuBytes)).toBe(true);
    const peak = ledger.total.peakBytes - before;
    for (const block of blocks) block.release();
    attention.destroy();
    const left = ledger.total.bytes - before;
    gpu.destroy();
    return { peak, left };
  }

  it("peak GPU bytes stay the same at 8 times the tokens when blocks live on the host", async () => {
    await peakBytes(64, "host"); // what a device takes once and for all (uniforms, placeholders) is not the context's
    const [short, long] = [await peakBytes(256, "host"), await peakBytes(2048, "host")];
    expect(Math.abs(long.peak / short.peak - 1)).toBeLessThan(0.05);
    expect([short.left, long.left]).toEqual([0, 0]);
  });

  it("on the GPU they grow page by page, and only with the context", async () => {
    const [short, long] = [await peakBytes(256, "gpu"), await peakBytes(512, "gpu")];
    // 256 tokens more: 8 pages of 32 tokens, keys and values of 2 heads x 4, and their positions.
    expect(long.peak - short.peak).toBe(8 * 32 * (2 * 2 * 4 + 1) * 4);
  });

  it("a block that grows moves nothing, can be emptied, and gives everything back", async () => {
    const c = sequence(40);
    const gpu = await uploadTokens(c, makeInputs(c));
    const ring = await createRingAttention(device, ringOptions(c, { pageSize: 8 }));
    const [block] = ring.createBlocks() as [KvBlock];
    expect([block.tokenCount, block.gpuBytes, block.minPosition, block.maxPosition]).toEqual([0, 0, -1, -1]);
    await ring.append([block], gpu.kv(0, 20));
    const first = block.pages[0]!.key;
    await ring.append([block], gpu.kv(20, 20));
    expect(block.pages[0]!.key).toBe(first);
    expect([block.tokenCount, block.pages.length, block.minPosition, block.maxPosition]).toEqual([40, 5, 0, 39]);
    const { gpuBytes } = block;
    block.clear();
    expect([block.tokenCount, block.gpuBytes]).toEqual([0, gpuBytes]);
    await ring.append([block], gpu.kv(0, 3));
    expect(block.tokenCount).toBe(3);
    block.release();
    block.release();
    expect(block.gpuBytes).toBe(0);
    await expect(ring.append([block], gpu.kv(3, 1))).rejects.toThrow(
      new DestroyedError("KvBlock.reserve: K/V rank 0 was released"),
    );
    ring.destroy();
    gpu.destroy();
  });
});

describe("steps, stops and mistakes", () => {
  const c = sequence(96);
  async function prefilled(ring: Partial<RingAttentionOptions>) {
    const gpu = await uploadTokens(c, makeInputs(c));
    const attention = await createRingAttention(device, ringOptions(c, { worldSize: 4, pageSize: 8, ...ring }));
    const blocks = attention.createBlocks();
    await attention.append(blocks, gpu.kv(0, c.seqLen));
    const call = { ...gpu.queries(0, c.seqLen), blocks };
    const check = async () => {
      await collect(attention.attend(call));
      const inputs = makeInputs(c);
      const want = expected(c, inputs);
      const got = { output: await gpu.output(), lse: want.lse };
      expectClose(got, want, expected(c, inputs, "f32"), "f32");
    };
    const destroy = () => {
      for (const block of blocks) block.release();
      attention.destroy();
      gpu.destroy();
    };
    return { gpu, attention, blocks, call, check, destroy };
  }

  it.each(["gpu", "host"] as const)("events say who met whom, and how long it took, %s", async (blockMemory) => {
    const { attention, call, destroy } = await prefilled({ layout: "contiguous", blockMemory });
    const began = performance.now();
    const steps = await collect(attention.attend(call));
    const tookMs = performance.now() - began;
    expect(steps.map(({ step, rank }) => step * 4 + rank)).toEqual([...Array(16).keys()]);
    for (const step of steps) {
      expect(step.kvRank).toBe((step.rank - step.step + 4) % 4);
      expect(step.isSkipped).toBe(step.kvRank > step.rank);
      expect([step.queryTokens, step.kvTokens]).toEqual([24, 24]);
      expect(step.waitMs).toBeLessThanOrEqual(step.transferMs + 1e-6);
      expect(step.startMs).toBeGreaterThanOrEqual(began);
      if (step.isSkipped) expect([step.computeMs, step.transferMs, step.waitMs]).toEqual([0, 0, 0]);
    }
    const sum = (name: "computeMs" | "transferMs" | "waitMs") => steps.reduce((total, step) => total + step[name], 0);
    expect(sum("computeMs")).toBeGreaterThan(0);
    // One device: its ranks take turns, so their times add up to no more than the whole took.
    expect(sum("computeMs")).toBeLessThanOrEqual(tookMs);
    if (blockMemory === "gpu") expect([sum("transferMs"), sum("waitMs")]).toEqual([0, 0]);
    destroy();
  });

  it.each(["gpu", "host"] as const)(
    "abort rejects with the signal's reason and leaves everything usable, %s",
    async (blockMemory) => {
      const { attention, call, check, destroy } = await prefilled({ blockMemory });
      const reason = new Error("enough");
      const early = AbortSignal.abort(reason);
      await expect(collect(attention.attend(call, { signal: early }))).rejects.toBe(reason);
      await expect(attention.decode({ ...call, start: 95, count: 1 }, { signal: early })).rejects.toBe(reason);
      for (const after of [0, 3, 9]) {
        const controller = new AbortController();
        let seen = 0;
        const run = (async () => {
          for await (const _ of attention.attend(call, { signal: controller.signal }))
            if (seen++ === after) controller.abort(reason);
        })();
        await expect(run).rejects.toBe(reason);
      }
      const controller = new AbortController();
      const late = collect(attention.attend(call, { signal: controller.signal }));
      setTimeout(() => controller.abort(reason), 1);
      await expect(late).rejects.toBe(reason);
      await check();
      destroy();
    },
  );

  it.each(["gpu", "host"] as const)(
    "leaving the iteration early, and runs beside each other, do no harm, %s",
    async (blockMemory) => {
      const { attention, call, check, destroy } = await prefilled({ blockMemory });
      for await (const step of attention.attend(call)) if (step.step === 1) break;
      await Promise.all([check(), check(), check()]);
      destroy();
    },
  );

  it.each(["gpu", "host"] as const)("destroy() during a run rejects it, %s", async (blockMemory) => {
    const { attention, call, blocks, destroy } = await prefilled({ blockMemory });
    const run = (async () => {
      for await (const step of attention.attend(call)) if (step.step === 0) attention.destroy();
    })();
    await expect(run).rejects.toThrow(new DestroyedError("ring: this ring attention was destroyed"));
    await expect(collect(attention.attend(call))).rejects.toThrow(DestroyedError);
    await expect(attention.reserve(blocks, { start: 96, count: 1 })).rejects.toThrow(DestroyedError);
    expect(() => attention.createBlocks()).toThrow(DestroyedError);
    destroy();
  });

  it("a lost device ends a ring with the device's one loss signal; destroy() still gives everything back", async () => {
    const other = await requestRingwiseDevice();
    const ring: RingAttention = await createRingAttention(other, ringOptions(c, { worldSize: 2 }));
    const shared = () => ledgerOf(other).of("shared").bytes;
    const before = shared();
    const signal = lossSignal(other);
    other.destroy();
    await other.lost;
    await Promise.resolve();
    expect(signal.reason).toBeInstanceOf(DeviceLostError);
    expect(() => ring.createBlocks()).toThrow(signal.reason);
    ring.destroy();
    ring.destroy();
    expect(shared()).toBeLessThan(before);
    expect(() => ring.createBlocks()).toThrow(DeviceLostError);
  });

  it("names what does not fit", async () => {
    const { attention, blocks, call, gpu, destroy } = await prefilled({ blockMemory: "host" });
    const fails = async (promise: Promise<unknown>, error: Error) => expect(promise).rejects.toThrow(error);
    await fails(
      createRingAttention(device, ringOptions(c, { worldSize: 65 })),
      new OptionError("createRingAttention: expected worldSize to be an integer from 1 to 64, got 65"),
    );
    await fails(
      collect(attention.attend({ ...call, blocks: blocks.slice(1) })),
      new OptionError("RingAttention.attend: expected 4 blocks, of rank 0 to 3 in order, got ranks [1, 2, 3]"),
    );
    await fails(
      collect(attention.attend({ ...call, blocks: attention.createBlocks() })),
      new ShapeError("RingAttention.attend: expected blocks that hold at least one token, got 4 empty ones"),
    );
    await fails(
      collect(attention.attend({ ...call, count: 97 })),
      new ShapeError("RingAttention.attend: expected query of at least 6208 bytes, got 6144 bytes"),
    );
    const encoder = device.createCommandEncoder();
    expect(() => attention.encodeDecode(encoder, { ...call, start: 95, count: 1 })).toThrow(
      new OptionError(
        "RingAttention.encodeDecode: expected blocks in GPU memory, got a page in host memory; use decode",
      ),
    );
    expect(() => attention.encodeDecode(encoder, { ...call, start: 94, count: 2 })).toThrow(
      new OptionError("RingAttention.encodeDecode: expected count to be an integer from 1 to 1, got 2"),
    );
    expect(() => attention.encodeAppend(encoder, blocks, gpu.kv(0, 96))).toThrow(OptionError);
    await fails(
      attention.append(blocks, gpu.kv(0, 1)),
      new OptionError("KvBlock.encodeAppend: expected positions past 95, which the block holds, got 0"),
    );
    destroy();
  });
});
