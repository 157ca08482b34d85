/** One conformance suite over every kind and design, against the float64 oracle, and what the operator refuses. */
import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { type AttentionLimits, createAttention } from "../../src/kernels/attention.ts";
import type { AttentionOptions } from "../../src/kernels/attention-types.ts";
import { expectClose, expected, makeInputs, optionsOf, uploadCase } from "../attention-harness.ts";
import { type AttentionCase, TEST_CASES } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});

async function conform(c: AttentionCase, extra: Partial<AttentionOptions>, limits: AttentionLimits = {}, seed = 1) {
  const inputs = makeInputs(c, seed);
  const gpu = await uploadCase(device, c, inputs);
  const attention = await createAttention(device, { ...optionsOf(c), ...extra }, limits);
  try {
    const got = await gpu.run((target) => attention.encode(target, gpu.tensors));
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    expect(got.output.some(Number.isNaN)).toBe(false);
  } finally {
    attention.destroy();
    gpu.destroy();
  }
}

const named = (name: string): AttentionCase => TEST_CASES.find((c) => c.name === name)!;
const each = (cases: readonly AttentionCase[]) => cases.map((c) => [c.name, c] as const);
/** One of each concern, for the designs that share all but their inner loop with the one that runs every case. */
const SAMPLE = ["uneven", "gqa", "bhtd", "head-dim-5-value-7", "window", "everything", "decode-few-rows"].map(named);

describe("flash: every case", () => {
  it.each(each(TEST_CASES))("%s", (_name, c) => conform(c, {}));
});

describe.each([
  ["blockwise", { kind: "blockwise", blockSize: 16 }],
  ["vanilla", { kind: "vanilla" }],
  ["register design", { design: "register" }],
  ["subgroup design", { design: "subgroup" }],
  ["tile design", { design: "tile" }],
] as const)("%s", (_name, extra) => {
  it.each(each(SAMPLE))("%s", (_case, c) => conform(c, extra));
});

describe("tensors larger than one binding are cut", () => {
  it.each(
    ["uneven", "gqa", "bhtd", "segments", "mask-additive", "decode-batch-lengths"].map(
      (name) => [name, named(name)] as const,
    ),
  )("%s", async (_name, c) => {
    for (const kind of ["flash", "blockwise"] as const)
      await conform(c, { kind, blockSize: 16 }, { maxBindingByteLength: 2304 });
  });
});

it("any shape, split and mask equals the oracle", async () => {
  const cases = fc.record({
    ...{ batch: fc.integer({ min: 1, max: 2 }), seqLen: fc.integer({ min: 1, max: 40 }) },
    ...{ kvSeqLen: fc.integer({ min: 1, max: 90 }), kvHeads: fc.integer({ min: 1, max: 2 }) },
    ...{ group: fc.integer({ min: 1, max: 3 }), queryStart: fc.integer({ min: 0, max: 60 }) },
    window: fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }),
    isCausal: fc.boolean(),
    seed: fc.integer({ min: 1, max: 1000 }),
  });
  await fc.assert(
    fc.asyncProperty(cases, async ({ group, seed, ...rest }) => {
      const c: AttentionCase = {
        ...{ name: "any", use: "test", dtype: "f32", headDim: 8, heads: rest.kvHeads * group, ...rest },
      };
      await conform(c, {}, {}, seed);
    }),
    { numRuns: 12, seed: 7 },
  );
});

describe("what is refused, at once and by name", () => {
  const base: AttentionOptions = { heads: 4, headDim: 8 };
  it.each([
    [{ kvHeads: 3 }, "createAttention: expected kvHeads to divide heads, got heads 4 and kvHeads 3"],
    [{ headDim: 257 }, "createAttention: expected headDim to be an integer from 1 to 256, got 257"],
    [{ window: 0 }, "createAttention: expected window to be an integer from 1 to 2147483647, got 0"],
    [{ causalBlockSize: 4 }, "createAttention: causalBlockSize 4 needs isCausal: true"],
    [{ scale: Number.NaN }, "createAttention: expected scale to be a finite number, got NaN"],
    [
      { kind: "ring" as const },
      'createAttention: kind "ring" shards K/V over ranks; use createRingAttention(device, options)',
    ],
  ])("%o", async (wrong, message) => {
    await expect(createAttention(device, { ...base, ...wrong })).rejects.toThrow(message);
  });

  it("wrong buffers, and use after destroy; a good call still works in between", async () => {
    const c = named("uneven-causal");
    const gpu = await uploadCase(device, c, makeInputs(c));
    const attention = await createAttention(device, optionsOf(c));
    const encoder = device.createCommandEncoder();
    const { tensors } = gpu;
    const encode = (wrong: object) => () => attention.encode(encoder, { ...tensors, ...wrong });
    expect(encode({ kvSeqLen: 68 })).toThrow(
      "Attention.encode: expected key of shape [1, 68, 2, 16] (8704 bytes), got 8576 bytes",
    );
    expect(encode({ seqLen: 0 })).toThrow("Attention.encode: expected seqLen to be an integer of at least 1, got 0");
    expect(encode({ value: undefined })).toThrow("expected a buffer for value");
    expect(encode({ sinks: tensors.lse })).toThrow("got sinks, but the attention was created without hasSinks");
    expect(encode({ query: { buffer: tensors.query, byteOffset: 4 } })).toThrow("Attention.encode: expected");
    expect(encode({})).not.toThrow();
    attention.destroy();
    attention.destroy();
    expect(encode({})).toThrow("Attention.encode: this attention was destroyed");
    gpu.destroy();
  });

  it("a mask whose rows or columns are not those of the call, but not one that is shorter in keys", async () => {
    const c = named("mask-additive");
    const gpu = await uploadCase(device, c, makeInputs(c));
    const attention = await createAttention(device, optionsOf(c));
    const { tensors } = gpu;
    const withMask = (shape: number[], rest: object = {}) => {
      const mask = { ...tensors.mask!, shape, ...rest };
      return () => attention.encode(device.createCommandEncoder(), { ...tensors, mask });
    };
    const form = "Attention.encode: expected mask of shape [T, S], [H, T, S] or [B, H, T, S] with";
    expect(withMask([3, 4])).toThrow(`${form} T 28, or 1 where broadcast, got [3, 4]`);
    expect(withMask([29, 4])).toThrow(`${form} T 28, or 1 where broadcast, got [29, 4]`);
    expect(withMask([28, 37])).toThrow(`${form} S at most 36, or 1 where broadcast, got [28, 37]`);
    expect(withMask([3, 28, 4])).toThrow(`${form} H 4, B 2, or 1 where broadcast, got [3, 28, 4]`);
    expect(withMask([28, 4], { queryOrigin: 2 })).toThrow(`${form} T that begins at position 0 or before`);
    expect(withMask([20, 4], { queryOrigin: 0 })).toThrow(`${form} T at least 28 (from queryOrigin 0 to position 27)`);
    for (const shape of [
      [28, 36],
      [28, 4],
      [1, 36],
      [28, 1],
      [1, 1],
    ])
      expect(withMask(shape)).not.toThrow();
    expect(withMask([30, 4], { queryOrigin: 0 })).not.toThrow();
    attention.destroy();
    gpu.destroy();
  });
});
