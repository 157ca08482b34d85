/** One conformance suite over every kind and design, against the float64 oracle, and what the operator refuses. */
import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { allocate, read, release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { type AttentionLimits, createAttention } from "../../src/kernels/attention.ts";
import type { AttentionOptions, AttentionTensors } from "../../src/kernels/attention-types.ts";
import type { ReferenceAttentionOptions } from "../../src/reference/attention.ts";
import {
  countPasses,
  expectClose,
  expected,
  makeInputs,
  optionsOf,
  seededRandom,
  uploadCase,
} from "../attention-harness.ts";
import { type AttentionCase, TEST_CASES } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});

async function conform(
  c: AttentionCase,
  extra: Partial<AttentionOptions>,
  limits: AttentionLimits = {},
  seed = 1,
  inputs = makeInputs(c, seed),
) {
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
/** One of each concern, for the kernels that share all but their inner loop with one that runs every case. */
const SAMPLE = ["uneven", "gqa", "bhtd", "head-dim-5-value-7", "window", "everything", "decode-few-rows"].map(named);

describe.each([
  ["flash", {}],
  ["vanilla", { kind: "vanilla" }],
  // What GPUs get by default.
  ["tile design", { design: "tile" }],
] as const)("%s: every case", (_name, extra) => {
  it.each(each(TEST_CASES))("%s", (_case, c) => conform(c, extra));
});

describe.each([
  ["blockwise", { kind: "blockwise", blockSize: 16 }],
  ["register design", { design: "register" }],
  ["subgroup design", { design: "subgroup" }],
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

describe("additive masks of extreme values", () => {
  const lowest = -3.4028234663852886e38;
  it.each([
    ["the lowest float everywhere: the mean", () => lowest],
    ["the lowest float beside zeros", (t: number, s: number) => (s > t ? lowest : 0)],
    ["the lowest float beside -inf", (t: number, s: number) => (s > t ? lowest : Number.NEGATIVE_INFINITY)],
    ["-1e38 beside the lowest float: a tie", (_t: number, s: number) => (s % 2 ? -1e38 : lowest)],
    ["-2e38 beside -inf", (t: number, s: number) => (s > t ? Number.NEGATIVE_INFINITY : -2e38)],
    ["the highest float", (t: number, s: number) => (s > t ? 0 : -lowest)],
    ["a first tile of -inf", (_t: number, s: number) => (s < 40 ? Number.NEGATIVE_INFINITY : 0)],
  ] as const)("%s", async (_name, value) => {
    const c: AttentionCase = { ...named("mask-additive"), batch: 1, seqLen: 9, kvSeqLen: 70 };
    const inputs = makeInputs(c);
    inputs.mask!.data = Float32Array.from({ length: 9 * 70 }, (_, i) => value(Math.floor(i / 70), i % 70));
    for (const extra of [{}, { kind: "vanilla" }, { design: "tile" }, { kind: "blockwise", blockSize: 16 }] as const)
      await conform(c, extra, {}, 1, inputs);
  });
});

describe("positions, broadcasts and sizes that no named case has", () => {
  const base: AttentionCase = { ...named("gqa"), seqLen: 13, kvSeqLen: 50, headDim: 8, heads: 4 };
  /** The kind and the design that compile fast: what is tested here comes before the inner loop, which they share. */
  const EXTRAS = [{ design: "tile" }, { kind: "vanilla" }] as const;

  /** One call with other tensors than the case's own, against the oracle with other options. */
  async function compare(
    c: AttentionCase,
    tensors: (put: (data: ArrayBufferView<ArrayBuffer>) => Promise<GPUBuffer>) => Promise<Partial<AttentionTensors>>,
    oracle: Partial<ReferenceAttentionOptions>,
    inputs = makeInputs(c),
    limits: AttentionLimits = {},
  ) {
    const buffers: GPUBuffer[] = [];
    const gpu = await uploadCase(device, c, inputs);
    const changed = await tensors(async (data) => {
      const buffer = await upload(device, "of this test", data);
      buffers.push(buffer);
      return buffer;
    });
    const want = [expected(c, inputs, "f64", oracle), expected(c, inputs, "f32", oracle)] as const;
    for (const extra of EXTRAS) {
      // Half of it cuts the keys as well, which kind "vanilla" does not do.
      const maxBindingByteLength =
        limits.maxBindingByteLength && limits.maxBindingByteLength / ("kind" in extra ? 1 : 2);
      const attention = await createAttention(device, { ...optionsOf(c), ...extra }, { maxBindingByteLength });
      const got = await gpu.run((target) => attention.encode(target, { ...gpu.tensors, ...changed }));
      expectClose(got, ...want, c.dtype);
      attention.destroy();
    }
    gpu.destroy();
    buffers.forEach(release);
  }

  const shifted = (list: number[], b: number) => list.map((position) => position + 5 * b);
  const queryList = Array.from({ length: 13 }, (_, t) => 7 + 3 * t + (t % 3));
  const kvList = Array.from({ length: 50 }, (_, s) => s + Math.floor(s / 4));

  it("listed positions, with gaps", () =>
    compare(
      { ...base, window: 20 },
      async (put) => ({
        queryPositions: { positions: await put(Uint32Array.from(queryList)) },
        kvPositions: { positions: await put(Uint32Array.from(kvList)), min: kvList[0], max: kvList.at(-1) },
      }),
      { queryPosition: (_b, t) => queryList[t]!, kvPosition: (_b, s) => kvList[s]! },
    ));

  it("listed positions per batch entry, also cut in pieces", async () => {
    for (const maxBindingByteLength of [undefined, 4096])
      await compare(
        base,
        async (put) => ({
          queryPositions: {
            positions: await put(Uint32Array.from([...queryList, ...shifted(queryList, 1)])),
            perBatch: true,
          },
          kvPositions: { positions: await put(Uint32Array.from([...kvList, ...shifted(kvList, 2)])), perBatch: true },
        }),
        { queryPosition: (b, t) => shifted(queryList, b)[t]!, kvPosition: (b, s) => shifted(kvList, 2 * b)[s]! },
        undefined,
        { maxBindingByteLength },
      );
  });

  it("keys and queries strided, as in a striped ring", () =>
    compare(base, async () => ({ queryPositions: { start: 2, stride: 4 }, kvPositions: { start: 1, stride: 3 } }), {
      queryPosition: (_b, t) => 2 + 4 * t,
      kvPosition: (_b, s) => 1 + 3 * s,
    }));

  it("the last positions there are, below 2^31", () => {
    const [queryStart, kvStart] = [2 ** 31 - 13, 2 ** 31 - 50];
    return compare(
      { ...base, window: 20, causalBlockSize: 4 },
      async () => ({ queryPositions: { start: queryStart }, kvPositions: { start: kvStart } }),
      { queryPosition: (_b, t) => queryStart + t, kvPosition: (_b, s) => kvStart + s },
    );
  });

  describe.each(["additive", "boolean"] as const)("a mask that is %s, with grouped heads", (mask) => {
    it.each([
      ["T", [2, 4, 1, 50]],
      ["S", [2, 4, 13, 1]],
      ["H", [2, 1, 13, 50]],
      ["B and T", [1, 4, 1, 50]],
      ["nothing", [2, 4, 13, 50]],
    ] as const)("and broadcast over %s, whole and cut in pieces", async (_axis, shape) => {
      const c: AttentionCase = { ...base, mask: "none", isCausal: false };
      const random = seededRandom(5);
      const [B, H, T, S] = shape;
      const data = Float32Array.from({ length: B * H * T * S }, () => {
        const x = random();
        return mask === "boolean" ? (x > -0.4 ? 1 : 0) : x > 0.7 ? Number.NEGATIVE_INFINITY : x;
      });
      const value = (b: number, h: number, t: number, s: number) =>
        data[((Math.min(b, B - 1) * H + Math.min(h, H - 1)) * T + Math.min(t, T - 1)) * S + Math.min(s, S - 1)]!;
      const hides = (x: number) => (x ? 0 : Number.NEGATIVE_INFINITY);
      for (const maxBindingByteLength of [undefined, 4096])
        await compare(
          { ...c, mask },
          async (put) => ({
            mask: { buffer: await put(mask === "boolean" ? Uint8Array.from(data) : data), shape },
          }),
          { mask: (b, h, t, s) => (mask === "boolean" ? hides(value(b, h, t, s)) : value(b, h, t, s)) },
          makeInputs(c),
          { maxBindingByteLength },
        );
    });
  });

  it("scores of a million", async () => {
    const c: AttentionCase = { ...base, scale: 2 ** 18 };
    const inputs = makeInputs(c);
    // Few bits, so that every product and sum is exact and only the softmax is compared.
    for (const side of [inputs.query, inputs.key]) side.set(side.map((x) => Math.round(2 * x) / 2));
    await compare(c, async () => ({}), {}, inputs);
  });

  it.each([
    [3, 255],
    [255, 3],
  ])("headDim %d, valueDim %d", (headDim, valueDim) => compare({ ...base, headDim, valueDim }, async () => ({}), {}));
});

it("decode with many query heads per K/V head splits the keys: parts and a merge instead of one pass", async () => {
  const c: AttentionCase = { ...named("decode"), heads: 32, kvHeads: 1, headDim: 16, kvSeqLen: 600, queryStart: 599 };
  const inputs = makeInputs(c);
  const gpu = await uploadCase(device, c, inputs);
  const attention = await createAttention(device, optionsOf(c));
  let passes = 0;
  const got = await gpu.run((target) => {
    passes = countPasses(target, (counted) => attention.encode(counted, gpu.tensors));
  });
  expect(passes).toBe(2);
  expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
  attention.destroy();
  gpu.destroy();
});

describe("a past", () => {
  const [batch, pastLen, seqLen, kvHeads, headDim, valueDim] = [2, 37, 5, 2, 4, 6];
  const c: AttentionCase = {
    ...{ name: "past", use: "test", dtype: "f32", isCausal: true, queryStart: pastLen, heads: 4 },
    ...{ batch, seqLen, kvSeqLen: pastLen + seqLen, kvHeads, headDim, valueDim },
  };
  const inputs = makeInputs(c);

  /** Tokens [start, start + count) of keys or values `[B, S, K, dim]`, in a layout. */
  const tokens = (data: Float32Array, dim: number, start: number, count: number, layout: "bthd" | "bhtd") =>
    Float32Array.from({ length: batch * count * kvHeads * dim }, (_, i) => {
      const d = i % dim;
      const [x, y] = [Math.floor(i / dim), layout === "bthd" ? kvHeads : count];
      const [token, head] =
        layout === "bthd" ? [Math.floor(x / y) % count, x % y] : [x % y, Math.floor(x / y) % kvHeads];
      const b = Math.floor(i / dim / kvHeads / count);
      return data[((b * c.kvSeqLen + start + token) * kvHeads + head) * dim + d]!;
    });

  it.each([
    ["bthd", undefined],
    ["bthd", 1280],
    ["bhtd", undefined],
    ["bhtd", 1280],
  ] as const)("in layout %s, with bindings of at most %s bytes", async (layout, maxBindingByteLength) => {
    const buffers: GPUBuffer[] = [];
    const keep = async (promise: Promise<GPUBuffer>) => {
      const buffer = await promise;
      buffers.push(buffer);
      return buffer;
    };
    const put = (data: Float32Array<ArrayBuffer>) => keep(upload(device, "part", data));
    const gpu = await uploadCase(device, c, inputs);
    const attention = await createAttention(device, optionsOf(c), { maxBindingByteLength });
    const present = {
      presentKey: await keep(allocate(device, { label: "present key", byteLength: inputs.key.byteLength })),
      presentValue: await keep(allocate(device, { label: "present value", byteLength: inputs.value.byteLength })),
    };
    const tensors: AttentionTensors = {
      ...gpu.tensors,
      ...{ queryPositions: undefined, kvSeqLen: seqLen },
      key: await put(tokens(inputs.key, headDim, pastLen, seqLen, "bthd")),
      value: await put(tokens(inputs.value, valueDim, pastLen, seqLen, "bthd")),
      past: {
        ...{ ...present, seqLen: pastLen, layout },
        key: await put(tokens(inputs.key, headDim, 0, pastLen, layout)),
        value: await put(tokens(inputs.value, valueDim, 0, pastLen, layout)),
      },
    };
    const got = await gpu.run((target) => attention.encode(target, tensors));
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    expect(new Float32Array(await read(device, { buffer: present.presentKey }))).toEqual(
      tokens(inputs.key, headDim, 0, c.kvSeqLen, layout),
    );
    expect(new Float32Array(await read(device, { buffer: present.presentValue }))).toEqual(
      tokens(inputs.value, valueDim, 0, c.kvSeqLen, layout),
    );
    const encode = (past: object, rest: object = {}) => {
      const wrong = { ...tensors, ...rest, past: { ...tensors.past!, ...past } };
      const encoder = device.createCommandEncoder();
      let passes = 0;
      const begin = encoder.beginComputePass.bind(encoder);
      encoder.beginComputePass = (descriptor) => {
        passes++;
        return begin(descriptor);
      };
      expect(() => attention.encode(encoder, wrong)).toThrow(
        /^Attention.encode: expected (a buffer for )?(past|kvSeqLen)/,
      );
      // Nothing of a call that is refused is encoded.
      expect(passes).toBe(0);
    };
    encode({ seqLen: Number.NaN });
    encode({ seqLen: 0 });
    encode({ value: { buffer: tensors.past!.value as GPUBuffer, byteOffset: 256 } });
    encode({ value: undefined });
    encode({}, { kvSeqLen: Number.NaN });
    attention.destroy();
    gpu.destroy();
    buffers.forEach(release);
  });
});

it("any sizes, causal offset and window equal the oracle", async () => {
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
    { numRuns: 8, seed: 7 },
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

  it("positions past 2^31 - 1, which would wrap on the GPU", async () => {
    const c = named("uneven-causal");
    const gpu = await uploadCase(device, c, makeInputs(c));
    const attention = await createAttention(device, optionsOf(c));
    const encode = (wrong: object) => () =>
      attention.encode(device.createCommandEncoder(), { ...gpu.tensors, ...wrong });
    const last = 2 ** 31 - 1;
    expect(encode({ queryPositions: { start: last - 65 } })).toThrow(
      `Attention.encode: expected queryPositions up to ${last}, got 67 positions from ${last - 65} by 1, up to ${last + 1}`,
    );
    expect(encode({ kvPositions: { start: 0, stride: 2 ** 26 } })).toThrow("expected kvPositions up to 2147483647");
    const positions = gpu.tensors.lse;
    expect(encode({ queryPositions: { positions, max: 2 ** 31 } })).toThrow("expected queryPositions.max to be");
    expect(encode({ queryPositions: { start: last - 66 } })).not.toThrow();
    attention.destroy();
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
