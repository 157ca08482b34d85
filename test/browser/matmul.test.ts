import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createMatmul, type MatmulDesign } from "../../src/kernels/matmul.ts";
import { matmulParts } from "../../src/kernels/matmul-options.ts";
import { referenceActivation, referenceMatmul } from "../../src/reference/matmul.ts";
import type { WeightDtype } from "../../src/shape.ts";
import { expectWithinRule, randomTensor, readFloats, submit, uploadAt, zeros } from "../dense-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

interface Case {
  rows: number;
  inFeatures: number;
  outFeatures: number;
  weightDtype: WeightDtype;
  design?: MatmulDesign;
  hasBias?: boolean;
  accumulate?: boolean;
  /** (input . weight) * (input . upWeight) */
  gated?: boolean;
  /** Elements before input and weight in their buffers. */
  skip?: number;
}

async function check(c: Case, seed = 1): Promise<void> {
  const {
    rows,
    inFeatures,
    outFeatures,
    weightDtype,
    hasBias = false,
    accumulate = false,
    gated = false,
    skip = 0,
  } = c;
  const mm = await createMatmul(device, { weightDtype, hasBias, gated, design: c.design });
  const input = randomTensor(rows * inFeatures, "f32", seed);
  const weight = randomTensor(outFeatures * inFeatures, weightDtype, seed + 1);
  const bias = hasBias ? randomTensor(outFeatures, weightDtype, seed + 2) : undefined;
  const residual = accumulate ? randomTensor(rows * outFeatures, "f32", seed + 3) : undefined;
  const up = gated ? randomTensor(outFeatures * inFeatures, weightDtype, seed + 4) : undefined;
  const x = await uploadAt(device, "x", input.bytes, skip);
  const w = await uploadAt(device, "w", weight.bytes, skip);
  const b = bias && (await uploadAt(device, "b", bias.bytes, skip));
  const u = up && (await uploadAt(device, "u", up.bytes, skip));
  const y = residual ? await upload(device, "y", residual.values) : await zeros(device, "y", rows * outFeatures);
  const sizes = { rows, inFeatures, outFeatures };
  const tensors = { input: x, weight: w, bias: b, upWeight: u, upBias: gated ? b : undefined, output: y, ...sizes };
  submit(device, (encoder) => mm.encode(encoder, { ...tensors, accumulate }));
  const got = await readFloats(device, y, rows * outFeatures);
  for (const buffer of [x.buffer, w.buffer, b?.buffer, u?.buffer, y]) release(buffer);
  const call = { input: input.values, bias: bias?.values, residual: gated ? undefined : residual?.values, ...sizes };
  const expected = (precision?: "f32") => {
    const first = referenceMatmul({ ...call, weight: weight.values }, precision);
    if (!up) return first;
    const second = referenceMatmul({ ...call, weight: up.values }, precision);
    return first.map((value, i) => value * second[i]! + (residual?.values[i] ?? 0));
  };
  expectWithinRule(JSON.stringify(c), got, expected(), expected("f32"));
}

describe("matmul against the float64 oracle", () => {
  const designs: MatmulDesign[] = ["register", "subgroup", "tile", "decode"];
  for (const design of designs)
    for (const weightDtype of ["f32", "f16", "bf16"] as const)
      it(`${design}, ${weightDtype}`, async () => {
        await check({ design, weightDtype, rows: 37, inFeatures: 64, outFeatures: 75 });
        await check({ design, weightDtype, rows: 9, inFeatures: 29, outFeatures: 33, hasBias: true, skip: 3 });
        await check({ design, weightDtype, rows: 70, inFeatures: 36, outFeatures: 5, accumulate: true, skip: 64 });
        await check({ design, weightDtype, rows: 1, inFeatures: 1, outFeatures: 1, hasBias: true, accumulate: true });
      });

  it("any sizes, types, offsets and designs", async () => {
    const small = fc.integer({ min: 1, max: 70 });
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          rows: small,
          inFeatures: small,
          outFeatures: small,
          weightDtype: fc.constantFrom<WeightDtype>("f32", "f16", "bf16"),
          design: fc.constantFrom<MatmulDesign>("auto", ...designs),
          hasBias: fc.boolean(),
          accumulate: fc.boolean(),
          skip: fc.integer({ min: 0, max: 9 }),
        }),
        (c) => check(c, c.rows + 100 * c.skip),
      ),
      { numRuns: 25 },
    );
  });

  const ADAPTERS = {
    "a GPU": { vendor: "some", subgroupMinSize: 32, subgroupMaxSize: 32 },
    "a CPU adapter with subgroups of 8": { description: "llvmpipe", subgroupMinSize: 8, subgroupMaxSize: 8 },
    "a CPU adapter without subgroups": { description: "llvmpipe", subgroupMinSize: 0, subgroupMaxSize: 0 },
  };
  for (const [name, adapterInfo] of Object.entries(ADAPTERS))
    it(`shares out the work as for ${name}`, async () => {
      Object.defineProperty(device, "adapterInfo", { value: adapterInfo, configurable: true });
      try {
        for (const gated of [false, true])
          for (const rows of [1, 3, 37]) {
            await check({ weightDtype: "f32", rows, inFeatures: 132, outFeatures: 75, gated, hasBias: true });
            await check({
              weightDtype: "bf16",
              rows,
              inFeatures: 31,
              outFeatures: 9,
              gated,
              accumulate: true,
              skip: 3,
            });
          }
      } finally {
        Reflect.deleteProperty(device, "adapterInfo");
      }
    });

  it("decodes one row of a wide layer", () =>
    check({ rows: 1, inFeatures: 576, outFeatures: 1536, weightDtype: "bf16" }));
});

describe("matmul's views", () => {
  it("reads and writes rows with strides, and leaves what lies between them", async () => {
    const [rows, inFeatures, outFeatures, inputStride, outputStride] = [6, 8, 5, 13, 11];
    const mm = await createMatmul(device, { weightDtype: "f32" });
    const input = randomTensor(rows * inputStride, "f32", 7);
    const weight = randomTensor(outFeatures * inFeatures, "f32", 8);
    const x = await upload(device, "x", input.values);
    const w = await upload(device, "w", weight.values);
    const y = await upload(device, "y", new Float32Array(rows * outputStride).fill(5));
    const sizes = { rows, inFeatures, outFeatures, inputStride, outputStride };
    submit(device, (encoder) => mm.encode(encoder, { input: x, weight: w, output: y, ...sizes }));
    const got = await readFloats(device, y, rows * outputStride);
    const dense = Float32Array.from(
      { length: rows * inFeatures },
      (_, i) => input.values[Math.floor(i / inFeatures) * inputStride + (i % inFeatures)]!,
    );
    const want = referenceMatmul({ input: dense, weight: weight.values, rows, inFeatures, outFeatures });
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < outputStride; column++) {
        const value = got[row * outputStride + column]!;
        if (column >= outFeatures) expect(value).toBe(5);
        else expect(value).toBeCloseTo(want[row * outFeatures + column]!, 5);
      }
    for (const buffer of [x, w, y]) release(buffer);
  });

  it("cuts a weight, an input and an output that are larger than a binding", async () => {
    const adapter = await navigator.gpu.requestAdapter();
    const tiny = await adapter!.requestDevice({
      requiredFeatures: adapter!.features.has("subgroups") ? ["subgroups"] : [],
    });
    const limits = new Proxy(tiny.limits, {
      get: (limits, name) => (name === "maxStorageBufferBindingSize" ? 2048 : Reflect.get(limits, name, limits)),
    });
    Object.defineProperty(tiny, "limits", { value: limits });
    const [rows, inFeatures, outFeatures] = [23, 24, 67];
    const input = randomTensor(rows * inFeatures, "f32", 3);
    const weight = randomTensor(outFeatures * inFeatures, "bf16", 4);
    const mm = await createMatmul(tiny, { weightDtype: "bf16" });
    const x = await upload(tiny, "x", input.values);
    const w = await upload(tiny, "w", weight.bytes);
    const y = await zeros(tiny, "y", rows * outFeatures);
    submit(tiny, (encoder) => mm.encode(encoder, { input: x, weight: w, output: y, rows, inFeatures, outFeatures }));
    const got = await readFloats(tiny, y, rows * outFeatures);
    const call = { input: input.values, weight: weight.values, rows, inFeatures, outFeatures };
    expectWithinRule("cut", got, referenceMatmul(call), referenceMatmul(call, "f32"));
    tiny.destroy();
  });

  it("matmulParts covers every row and column once", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 4, max: 64 }),
        fc.integer({ min: 64, max: 512 }),
        (rows, outFeatures, rowBytes, most) => {
          const sizes = { rows, outFeatures, inputRowBytes: rowBytes, outputRowBytes: 64, weightRowBytes: rowBytes };
          const seen = new Uint8Array(rows * outFeatures);
          for (const part of matmulParts("test", sizes, most)) {
            if (part.rows * Math.max(rowBytes, 64) > most || part.columns * rowBytes > most) return false;
            for (let r = 0; r < part.rows; r++)
              for (let c = 0; c < part.columns; c++) seen[(part.row + r) * outFeatures + part.column + c]!++;
          }
          return seen.every((count) => count === 1);
        },
      ),
    );
  });
});

describe("activations", () => {
  for (const activation of ["silu", "gelu", "gelu_tanh", "relu"] as const)
    it(`${activation} from -100 to 100, gated and not`, async () => {
      const inputs = Float32Array.from({ length: 401 }, (_, i) => Math.sign(i - 200) * ((i - 200) / 20) ** 2);
      const one = await upload(device, "one", Float32Array.of(1));
      const half = await upload(device, "half", Float32Array.of(0.5));
      const x = await upload(device, "x", inputs);
      const y = await zeros(device, "y", 401);
      const sizes = { rows: 401, inFeatures: 1, outFeatures: 1 };
      for (const gated of [false, true]) {
        const mm = await createMatmul(device, { weightDtype: "f32", activation, gated });
        const upWeight = gated ? half : undefined;
        submit(device, (encoder) => mm.encode(encoder, { input: x, weight: one, upWeight, output: y, ...sizes }));
        const got = await readFloats(device, y, 401);
        const oracle = Float64Array.from(inputs, (v) => referenceActivation(activation, v) * (gated ? 0.5 * v : 1));
        // Each number by itself: relative to its own input, since gelu's tail is the product of a tiny and a large number.
        inputs.forEach((v, i) => {
          const scale = Math.max(1, Math.abs(v)) * (gated ? Math.max(1, Math.abs(v / 2)) : 1);
          expect(Math.abs(got[i]! - oracle[i]!) / scale, `${activation}(${v})`).toBeLessThan(4e-7);
        });
      }
      for (const buffer of [one, half, x, y]) release(buffer);
    });

  it("passes ONNX's Swish", async ({ skip }) => {
    const response = await fetch(`/@fs${__SHARED__}/goldens/onnx-swish.json`);
    if (!response.ok) skip("../shared/goldens is absent: ONNX's Swish was not run");
    const [{ inputs, outputs }] = await response.json();
    const x = await upload(device, "x", Float32Array.from(inputs.x.data as number[]));
    const one = await upload(device, "one", Float32Array.of(1));
    const y = await zeros(device, "y", 3);
    const mm = await createMatmul(device, { weightDtype: "f32", activation: "silu" });
    submit(device, (encoder) =>
      mm.encode(encoder, { input: x, weight: one, output: y, rows: 3, inFeatures: 1, outFeatures: 1 }),
    );
    const got = await readFloats(device, y, 3);
    (outputs.y.data as number[]).forEach((want, i) => {
      expect(got[i]).toBeCloseTo(want, 6);
    });
  });
});

describe("matmul refuses", () => {
  it("tensors that are too small, missing, too many, or share a buffer", async () => {
    const mm = await createMatmul(device, { weightDtype: "f32", label: "q_proj" });
    const [a, b] = [await zeros(device, "a", 16), await zeros(device, "b", 16)];
    const call = { input: a, weight: b, output: b, rows: 4, inFeatures: 4, outFeatures: 4 };
    const encode = (changes: object) => () => submit(device, (encoder) => mm.encode(encoder, { ...call, ...changes }));
    expect(encode({ outFeatures: 5 })).toThrow('matmul("q_proj"): expected output of at least 80 bytes, got 64 ("b")');
    expect(encode({ bias: a })).toThrow(ShapeError);
    expect(encode({ output: a })).toThrow("expected input and output in different buffers");
    expect(encode({ rows: 1.5 })).toThrow("expected rows to be an integer of at least 0, got 1.5");
    await expect(createMatmul(device, { weightDtype: "q4" as "f32" })).rejects.toThrow(
      'expected weightDtype to be "f32" | "f16" | "bf16", got "q4"',
    );
    for (const buffer of [a, b]) release(buffer);
  });
});
