import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createRmsNorm } from "../../src/kernels/rmsnorm.ts";
import { referenceRmsNorm } from "../../src/reference/rmsnorm.ts";
import type { WeightDtype } from "../../src/shape.ts";
import { expectWithinRule, randomTensor, readFloats, submit, uploadAt, zeros } from "../dense-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

interface Case {
  rows: number;
  width: number;
  weightDtype: WeightDtype;
  eps: number;
  skip: number;
  inPlace: boolean;
  /** Value of the last channel of every row, where given. */
  constant?: number;
}

async function check(c: Case, amplitude = 1): Promise<void> {
  const { rows, width, weightDtype, eps, skip, inPlace } = c;
  const norm = await createRmsNorm(device, { eps, weightDtype });
  const input = randomTensor(rows * width, "f32", rows + width, amplitude).values;
  if (c.constant !== undefined) for (let r = 0; r < rows; r++) input[r * width + width - 1] = c.constant;
  const weight = randomTensor(width, weightDtype, 5, 2);
  const x = await uploadAt(device, "x", input, skip);
  const w = await uploadAt(device, "w", weight.bytes, skip);
  const y = await zeros(device, "y", rows * width + 2 * skip);
  const output = { buffer: y, byteOffset: skip * 4, byteLength: rows * width * 4 };
  submit(device, (encoder) =>
    norm.encode(encoder, { input: x, weight: w, output: inPlace ? undefined : output, rows, width }),
  );
  const all = await readFloats(device, inPlace ? x.buffer : y, rows * width + 2 * skip);
  const got = all.subarray(skip, skip + rows * width);
  for (const buffer of [x.buffer, w.buffer, y]) release(buffer);
  expectWithinRule(
    JSON.stringify(c),
    got,
    referenceRmsNorm(input, weight.values, eps),
    referenceRmsNorm(input, weight.values, eps, "f32"),
  );
}

it("matches the oracle for any size, weight type and offset, in place and not", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        rows: fc.integer({ min: 1, max: 90 }),
        width: fc.integer({ min: 1, max: 150 }),
        weightDtype: fc.constantFrom<WeightDtype>("f32", "f16", "bf16"),
        eps: fc.constantFrom(1e-6, 1e-5, 0.1),
        skip: fc.integer({ min: 0, max: 5 }),
        inPlace: fc.boolean(),
      }),
      (c) => check(c),
    ),
    { numRuns: 25 },
  );
});

it("keeps a constant channel of 1e3 to 1e15, and numbers as small as 1e-15", async () => {
  const c: Case = { rows: 5, width: 129, weightDtype: "f32", eps: 1e-5, skip: 0, inPlace: false };
  for (const constant of [1e3, 1e6, 1e15]) await check({ ...c, constant });
  await check({ ...c, eps: 1e-30 }, 1e-15);
});

it("normalises the heads of a strided view and leaves what lies between them", async () => {
  const [rows, width, stride] = [6, 8, 13];
  const norm = await createRmsNorm(device, { eps: 1e-5, weightDtype: "f32" });
  const input = randomTensor(rows * stride, "f32", 1).values;
  const weight = randomTensor(width, "f32", 2).values;
  const x = await upload(device, "x", input);
  const w = await upload(device, "w", weight);
  submit(device, (encoder) => norm.encode(encoder, { input: x, weight: w, rows, width, inputStride: stride }));
  const got = await readFloats(device, x, rows * stride);
  for (let r = 0; r < rows; r++) {
    const row = input.subarray(r * stride, r * stride + width);
    const want = referenceRmsNorm(row, weight, 1e-5);
    for (let i = 0; i < width; i++) expect(got[r * stride + i]).toBeCloseTo(want[i]!, 5);
    for (let i = width; i < stride; i++) expect(got[r * stride + i]).toBe(input[r * stride + i]);
  }
  for (const buffer of [x, w]) release(buffer);
});

it("refuses another view of the input's buffer, and tensors that are too small", async () => {
  const norm = await createRmsNorm(device, { eps: 1e-5, weightDtype: "f32" });
  const [x, w] = [await zeros(device, "x", 64), await zeros(device, "w", 8)];
  const encode = (tensors: object) => () =>
    submit(device, (encoder) => norm.encode(encoder, { input: x, weight: w, rows: 2, width: 8, ...tensors }));
  expect(encode({ output: { buffer: x, byteOffset: 64 } })).toThrow(ShapeError);
  expect(encode({ width: 9 })).toThrow('rmsNorm: expected weight of at least 36 bytes, got 32 ("w")');
  expect(encode({ rows: 9 })).toThrow("expected output of at least 288 bytes, got 256");
  for (const buffer of [x, w]) release(buffer);
});

it("passes every case of ONNX's RMSNormalization", async ({ skip }) => {
  const response = await fetch(`/@fs${__SHARED__}/goldens/onnx-rmsnormalization.json`);
  if (!response.ok) skip("../shared/goldens is absent: ONNX's RMSNormalization was not run");
  const cases = await response.json();
  for (const { name, attributes, inputs, outputs } of cases) {
    const shape: number[] = inputs.X.shape;
    // Everything from `axis` on is one row.
    const width = shape.slice(attributes.axis ?? -1).reduce((product, axis) => product * axis, 1);
    const rows = inputs.X.data.length / width;
    const norm = await createRmsNorm(device, { eps: attributes.epsilon ?? 1e-5, weightDtype: "f32" });
    const x = await upload(device, "X", Float32Array.from(inputs.X.data as number[]));
    const w = await upload(device, "W", Float32Array.from(inputs.W.data as number[]));
    const y = await zeros(device, "Y", rows * width);
    submit(device, (encoder) => norm.encode(encoder, { input: x, weight: w, output: y, rows, width }));
    const got = await readFloats(device, y, rows * width);
    const want: number[] = outputs.Y.data;
    expect(got.length, name).toBe(want.length);
    want.forEach((value, i) => {
      expect(Math.abs(got[i]! - value), `${name}[${i}]`).toBeLessThan(2e-6);
    });
    for (const buffer of [x, w, y]) release(buffer);
  }
  expect(cases.length).toBeGreaterThanOrEqual(13);
});
