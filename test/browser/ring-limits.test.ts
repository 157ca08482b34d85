/** The ring where something is scarce or shared: small bindings, ranks elsewhere, other rings on the device, odd sizes. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OptionError } from "../../src/errors.ts";
import { allocate, read, release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { ledgerOf, MemoryLedger } from "../../src/gpu/ledger.ts";
import { createTokenCopier } from "../../src/kernels/copy-tokens.ts";
import type { RingBlock } from "../../src/ring/kv-page.ts";
import { createRingAttention } from "../../src/ring/ring-attention.ts";
import type { RingTensors } from "../../src/ring/ring-types.ts";
import type { Transport } from "../../src/ring/transport.ts";
import { alreadyThere, beginRotation } from "../../src/ring/transport-local.ts";
import type { RingLayout, RingStep } from "../../src/ring/types.ts";
import { expectClose, expected, makeInputs, optionsOf, uploadCase } from "../attention-harness.ts";
import type { AttentionCase } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

const shape = (seqLen: number, kvSeqLen: number, rest: Partial<AttentionCase> = {}): AttentionCase => ({
  ...{ name: "ring", use: "test", batch: 1, seqLen, kvSeqLen, heads: 4, kvHeads: 2, headDim: 4, dtype: "f32" },
  ...{ isCausal: true, ...rest },
});

const ringOptions = (c: AttentionCase) => {
  const { layout: _layout, ...options } = optionsOf(c);
  return options;
};

/** Runs that lend each other their blocks: none ends, giving its memory back, before all have had all of their steps. */
async function collectTogether(runs: readonly AsyncIterable<RingStep>[], counts: readonly number[]) {
  let complete: () => void;
  const allComplete = new Promise<void>((resolve) => (complete = resolve));
  let left = runs.length;
  return Promise.all(
    runs.map(async (run, index) => {
      const list: RingStep[] = [];
      for await (const step of run) {
        if (list.push(step) < counts[index]!) continue;
        if (--left === 0) complete();
        await allComplete;
      }
      return list;
    }),
  );
}

async function collect(steps: AsyncIterable<RingStep>): Promise<RingStep[]> {
  const list: RingStep[] = [];
  for await (const step of steps) list.push(step);
  return list;
}

/** Uploads a case, hands its tensors to `use`, and compares with the oracle what that has put into output and lse. */
async function check(c: AttentionCase, use: (tensors: RingTensors) => Promise<unknown>): Promise<void> {
  const inputs = makeInputs(c);
  const gpu = await uploadCase(device, c, inputs);
  const { queryPositions: _positions, ...tensors } = gpu.tensors;
  await use(tensors);
  expectClose(await gpu.run(() => {}), expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
  gpu.destroy();
}

/** The device as it would be with lower limits, which WebGPU itself does not give. */
function withLimits(limits: Partial<Record<keyof GPUSupportedLimits, number>>): GPUDevice {
  const proxy = <T extends object>(target: T, changes: object): T =>
    new Proxy(target, {
      get(_, name) {
        if (name in changes) return changes[name as keyof typeof changes];
        const value = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  return proxy(device, { limits: proxy(device.limits, limits) });
}

describe("query pieces fit the device's bindings and buffers, whatever the batch", () => {
  let small: GPUDevice;
  beforeAll(() => {
    small = withLimits({ maxStorageBufferBindingSize: 16384, maxBufferSize: 24576 });
  });

  it.each([
    [4, "contiguous"],
    [1, "contiguous"],
    [4, "striped"],
  ] as const)("batch %i, %s", async (batch, layout) => {
    // A token's state takes batch x 96 bytes: a rank's 255 tokens take two bindings or more, and more than one buffer.
    const c = shape(510, 90, { batch });
    await check(c, async (tensors) => {
      const ring = await createRingAttention(small, { ...ringOptions(c), worldSize: 2, layout, pageSize: 16 });
      await collect(ring.run(tensors));
      expect(ring.memory().every(({ peakBytes }) => peakBytes > 16384)).toBe(true);
      ring.destroy();
      expect(ledgerOf(small).of(0).bytes + ledgerOf(small).of(1).bytes).toBe(0);
    });
  });
});

describe("ranks that compute in different places", () => {
  /** One ring of several parties: each computes its ranks, and blocks go from hand to hand. */
  function parties(worldSize: number, groups: readonly (readonly number[])[]): Transport[] {
    const rotation = beginRotation(worldSize);
    return groups.map((ranks, index) => ({
      name: `party ${index}`,
      beginPass: () => ({ ...rotation, ranks, bring: alreadyThere }),
      destroy() {},
    }));
  }

  it.each<[number[][], RingLayout, number, number, number]>([
    [[[0], [1]], "contiguous", 40, 40, 0],
    [[[1], [0, 2]], "zigzag", 61, 61, 0],
    [[[2, 3], [0], [1]], "striped", 50, 50, 0],
    // The only key lies past all queries, and rank 1 holds none.
    [[[0], [1]], "contiguous", 9, 1, 20],
  ])("each computes only its own: %j, %s, %i queries, %i keys", async (groups, layout, seqLen, kvSeqLen, kvStart) => {
    const c = shape(seqLen, kvSeqLen, { queryStart: -kvStart });
    const worldSize = groups.flat().length;
    const options = { ...ringOptions(c), worldSize, layout, pageSize: 8 };
    const transports = parties(worldSize, groups);
    const rings = await Promise.all(
      transports.map((transport) => createRingAttention(device, { ...options, transport })),
    );
    await check(c, async (tensors) => {
      const counts = groups.map((ranks) => worldSize * ranks.length);
      const runs = rings.map((ring) => ring.run({ ...tensors, kvStart }));
      const steps = await collectTogether(runs, counts);
      steps.forEach((list, index) => {
        expect(list).toHaveLength(counts[index]!);
        expect(new Set(list.map(({ rank }) => rank))).toEqual(new Set(groups[index]));
      });
    });
    rings.forEach((ring, index) => {
      const used = ring.memory().flatMap(({ peakBytes }, rank) => (peakBytes > 0 ? [rank] : []));
      expect(used).toEqual([...groups[index]!].sort());
      ring.destroy();
    });
  });

  it("a block that does not arrive ends the run with its error", async () => {
    const c = shape(20, 20);
    const failure = new Error("the other side hung up");
    const transport: Transport = {
      name: "broken",
      beginPass: () => ({
        ranks: [0],
        sendRecv: (): Promise<RingBlock> => Promise.reject(failure),
        bring: alreadyThere,
      }),
      destroy() {},
    };
    const ring = await createRingAttention(device, { ...ringOptions(c), worldSize: 2, transport });
    const gpu = await uploadCase(device, c, makeInputs(c));
    const { queryPositions: _positions, ...tensors } = gpu.tensors;
    await expect(collect(ring.run(tensors))).rejects.toBe(failure);
    expect(ring.memory().map(({ bytes }) => bytes)).toEqual([0, 0]);
    ring.destroy();
    gpu.destroy();
  });
});

it("memory() tells of this ring alone, or of those that share its ledger", async () => {
  const options = { ...ringOptions(shape(6, 6)), worldSize: 2, pageSize: 8 };
  const ledger = new MemoryLedger();
  const [busy, idle, one, other] = await Promise.all([
    createRingAttention(device, options),
    createRingAttention(device, options),
    createRingAttention(device, { ...options, ledger }),
    createRingAttention(device, { ...options, ledger }),
  ]);
  const key = await allocate(device, { label: "key and value", byteLength: 6 * 2 * 4 * 4 });
  const append = async (ring: typeof busy) => {
    const blocks = ring!.createBlocks();
    await ring!.append(blocks, { start: 0, count: 6, key, value: key });
    return blocks;
  };
  const blocks = [...(await append(busy)), ...(await append(one)), ...(await append(other))];
  // One page per rank: 8 tokens of K and V of 2 heads x 4, and their positions.
  const page = 8 * (2 * 2 * 4 + 1) * 4;
  const bytes = (ring: typeof busy) => ring!.memory().map((use) => use.bytes);
  expect([bytes(busy), bytes(idle), bytes(one), bytes(other)]).toEqual([
    [page, page],
    [0, 0],
    [2 * page, 2 * page],
    [2 * page, 2 * page],
  ]);
  expect(ledgerOf(device).of(0).bytes).toBe(3 * page);
  ledgerOf(device).resetPeaks();
  for (const block of blocks) block.release();
  expect([bytes(busy), bytes(one), ledgerOf(device).of(0).bytes]).toEqual([[0, 0], [0, 0], 0]);
  expect(busy!.memory()[0]).toEqual({ bytes: 0, peakBytes: page });
  for (const ring of [busy, idle, one, other]) ring!.destroy();
  release(key);
});

it("host blocks refuse a batch that no page can hold, before any work", async () => {
  const c = shape(6, 6, { batch: 5 });
  const ring = await createRingAttention(device, { ...ringOptions(c), blockMemory: "host", worldSize: 2, pageSize: 4 });
  const gpu = await uploadCase(device, c, makeInputs(c));
  const { queryPositions: _positions, ...tensors } = gpu.tensors;
  const before = ledgerOf(device).total.bytes;
  await expect(collect(ring.run(tensors))).rejects.toThrow(
    new OptionError(
      'RingAttention.run: expected batch to be at most pageSize (4) with blockMemory "host", for a page holds a token of every batch entry, got 5',
    ),
  );
  expect(ledgerOf(device).total.bytes).toBe(before);
  ring.destroy();
  gpu.destroy();
  const fits = { ...c, batch: 4 };
  await check(fits, async (tensors) => {
    const ring = await createRingAttention(device, {
      ...ringOptions(fits),
      ...{ blockMemory: "host", worldSize: 2, pageSize: 4 },
    });
    await collect(ring.run(tensors));
    ring.destroy();
  });
});

it("copies tokens whatever the strides and offsets, four elements at a time or one", async () => {
  const copier = await createTokenCopier(device, "f32");
  const from = Float32Array.from({ length: 600 }, (_, i) => i + 1);
  const source = await upload(device, "from", from);
  const target = await allocate(device, { label: "to", byteLength: 600 * 4 });
  const cases = [
    { outer: 3, tokens: 5, width: 8, sourceStrides: { outer: 80, token: 16 }, targetStrides: { outer: 40, token: 8 } },
    {
      outer: 2,
      tokens: 3,
      width: 36,
      sourceStrides: { outer: 108, token: 36 },
      targetStrides: { outer: 144, token: 48 },
    },
    { outer: 2, tokens: 5, width: 6, sourceStrides: { outer: 60, token: 12 }, targetStrides: { outer: 30, token: 6 } },
    { outer: 2, tokens: 4, width: 4, sourceStrides: { outer: 21, token: 5 }, targetStrides: { outer: 16, token: 4 } },
    { outer: 1, tokens: 1, width: 12, sourceStrides: { outer: 7, token: 3 }, targetStrides: { outer: 1, token: 1 } },
    // lse [H, T]: the inner axis is strided.
    {
      outer: 1,
      tokens: 8,
      width: 4,
      sourceStrides: { outer: 0, token: 1, inner: 8 },
      targetStrides: { outer: 0, token: 4 },
    },
  ];
  for (const c of cases)
    for (const [sourceAt, targetAt] of [
      [0, 0],
      [4, 64],
      [3, 64],
      [64, 1],
    ] as const) {
      const want = new Float32Array(600);
      for (let o = 0; o < c.outer; o++)
        for (let t = 0; t < c.tokens; t++)
          for (let i = 0; i < c.width; i++) {
            const { sourceStrides: a, targetStrides: b } = c;
            want[targetAt + o * b.outer + t * b.token + i] =
              from[sourceAt + o * a.outer + t * a.token + i * ("inner" in a ? a.inner! : 1)]!;
          }
      const encoder = device.createCommandEncoder();
      encoder.clearBuffer(target);
      copier.encode(encoder, {
        ...c,
        source: { buffer: source, byteOffset: sourceAt * 4 },
        target: { buffer: target, byteOffset: targetAt * 4 },
      });
      device.queue.submit([encoder.finish()]);
      expect(new Float32Array(await read(device, target))).toEqual(want);
    }
  release(source);
  release(target);
});
