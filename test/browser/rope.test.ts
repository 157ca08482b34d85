import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createRope, createRopeTables } from "../../src/kernels/rope.ts";
import { ropeTable } from "../../src/kernels/rope-tables.ts";
import { referenceRope } from "../../src/reference/rope.ts";
import { expectWithinRule, randomTensor, readFloats, submit, uploadAt, zeros } from "../dense-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

interface Case {
  batch: number;
  seqLen: number;
  heads: number;
  headDim: number;
  rotaryDim: number;
  interleaved: boolean;
  layout: "bthd" | "bhtd";
  perBatch: boolean;
  inPlace: boolean;
  skip: number;
}

/** What every head of the input becomes, by the oracle, from a table `[B or 1, T, R/2, 2]`. */
function oracle(c: Case, input: Float32Array, table: Float32Array, precision: "f64" | "f32"): Float64Array {
  const output = new Float64Array(input.length);
  const { batch, seqLen, heads, headDim, rotaryDim, layout, interleaved, perBatch } = c;
  for (let b = 0; b < batch; b++)
    for (let t = 0; t < seqLen; t++) {
      const at = ((perBatch ? b * seqLen : 0) + t) * rotaryDim;
      const row = table.subarray(at, at + rotaryDim);
      const cos = row.filter((_, i) => i % 2 === 0);
      const sin = row.filter((_, i) => i % 2 === 1);
      for (let h = 0; h < heads; h++) {
        const head = layout === "bthd" ? (b * seqLen + t) * heads + h : (b * heads + h) * seqLen + t;
        const start = head * headDim;
        const call = { input: input.subarray(start, start + headDim), cos, sin, interleaved };
        output.set(referenceRope(call, precision), start);
      }
    }
  return output;
}

async function check(c: Case, table: Float32Array<ArrayBuffer>): Promise<void> {
  const count = c.batch * c.seqLen * c.heads * c.headDim;
  const rope = await createRope(device, c);
  const input = randomTensor(count, "f32", count).values;
  const x = await uploadAt(device, "x", input, c.skip);
  const y = await zeros(device, "y", count);
  const turns = await uploadAt(device, "table", table, 2 * c.skip);
  const output = c.inPlace ? undefined : y;
  submit(device, (encoder) => rope.encode(encoder, { ...c, input: x, output, table: turns }));
  const got = c.inPlace
    ? (await readFloats(device, x.buffer, count + c.skip)).subarray(c.skip)
    : await readFloats(device, y, count);
  for (const buffer of [x.buffer, y, turns.buffer]) release(buffer);
  expectWithinRule(JSON.stringify(c), got, oracle(c, input, table, "f64"), oracle(c, input, table, "f32"));
}

it("turns every pair as the oracle does, in every layout", async () => {
  const small = fc.integer({ min: 1, max: 5 });
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        batch: small,
        seqLen: fc.integer({ min: 1, max: 20 }),
        heads: small,
        headDim: fc.integer({ min: 2, max: 33 }),
        rotaryShare: fc.double({ min: 0, max: 1, noNaN: true }),
        interleaved: fc.boolean(),
        layout: fc.constantFrom<"bthd" | "bhtd">("bthd", "bhtd"),
        perBatch: fc.boolean(),
        inPlace: fc.boolean(),
        skip: fc.integer({ min: 0, max: 9 }),
      }),
      async ({ rotaryShare, ...rest }) => {
        const rotaryDim = 2 * Math.max(1, Math.floor((rest.headDim / 2) * rotaryShare));
        const positions = Array.from(
          { length: rest.seqLen * (rest.perBatch ? rest.batch : 1) },
          (_, i) => (i * 7919) % 5000,
        );
        await check({ ...rest, rotaryDim }, ropeTable({ type: "default", theta: 10_000 }, { rotaryDim, positions }));
      },
    ),
    { numRuns: 25 },
  );
});

it("keeps the score of two tokens by their distance alone, ten million positions out", async () => {
  const c = { seqLen: 2, heads: 1, headDim: 64 };
  const rope = await createRope(device, c);
  using tables = await createRopeTables(device, {
    config: { type: "default", theta: 10_000 },
    rotaryDim: 64,
    capacity: 2,
  });
  const values = randomTensor(128, "f32", 3).values;
  const scores: number[] = [];
  for (const start of [0, 10_000_000]) {
    tables.set([start, start + 5]);
    const x = await upload(device, "x", values);
    submit(device, (encoder) => rope.encode(encoder, { ...c, input: x, table: tables.buffer }));
    const turned = await readFloats(device, x, 128);
    scores.push(turned.subarray(0, 64).reduce((sum, a, i) => sum + a * turned[64 + i]!, 0));
    release(x);
  }
  expect(scores[1]).toBeCloseTo(scores[0]!, 5);
  expect(() => tables.set([1, 2, 3])).toThrow("expected at most 2 positions, got 3");
  expect(tables.view(1, 1)).toEqual({ buffer: tables.buffer, byteOffset: 256, byteLength: 256 });
});

it("refuses odd rotary dims, small tables, and another view of the input", async () => {
  await expect(createRope(device, { headDim: 8, rotaryDim: 5 })).rejects.toThrow(
    "expected rotaryDim to be even, got 5",
  );
  await expect(createRope(device, { headDim: 8, rotaryDim: 10 })).rejects.toThrow(
    "rope: expected rotaryDim to be an integer from 2 to 8, got 10",
  );
  const rope = await createRope(device, { headDim: 8 });
  const [x, table] = [await zeros(device, "x", 64), await zeros(device, "table", 16)];
  const encode = (changes: object) => () =>
    submit(device, (encoder) => rope.encode(encoder, { input: x, table, seqLen: 2, heads: 2, ...changes }));
  expect(encode({ seqLen: 3 })).toThrow('expected table of at least 96 bytes, got 64 ("table")');
  expect(encode({ output: { buffer: x, byteOffset: 128 } })).toThrow(ShapeError);
  for (const buffer of [x, table]) release(buffer);
});

it("passes every case of ONNX's RotaryEmbedding", async ({ skip }) => {
  const response = await fetch(`/@fs${__SHARED__}/goldens/onnx-rotaryembedding.json`);
  if (!response.ok) skip("../shared/goldens is absent: ONNX's RotaryEmbedding was not run");
  const cases = await response.json();
  for (const { name, attributes, inputs, outputs } of cases) {
    const { shape, data } = inputs.input;
    // 4-D inputs are [B, H, T, D]; 3-D ones [B, T, H * D] with the head count as an attribute.
    const layout = shape.length === 4 ? "bhtd" : "bthd";
    const heads: number = shape.length === 4 ? shape[1] : attributes.num_heads;
    const batch: number = shape[0];
    const seqLen: number = shape.length === 4 ? shape[2] : shape[1];
    const headDim: number = shape.length === 4 ? shape[3] : shape[2] / heads;
    const rotaryDim: number = attributes.rotary_embedding_dim || headDim;
    const pairs = rotaryDim / 2;
    const table = new Float32Array(batch * seqLen * rotaryDim);
    for (let token = 0; token < batch * seqLen; token++) {
      // Without position_ids the caches are [B, T, R/2] already.
      const row = inputs.position_ids ? inputs.position_ids.data[token] : token;
      for (let i = 0; i < pairs; i++) {
        table[(token * pairs + i) * 2] = inputs.cos_cache.data[row * pairs + i];
        table[(token * pairs + i) * 2 + 1] = inputs.sin_cache.data[row * pairs + i];
      }
    }
    const rope = await createRope(device, { headDim, rotaryDim, layout, interleaved: Boolean(attributes.interleaved) });
    const x = await upload(device, "input", Float32Array.from(data as number[]));
    const y = await zeros(device, "output", data.length);
    const turns = await upload(device, "table", table);
    submit(device, (encoder) =>
      rope.encode(encoder, { input: x, output: y, table: turns, batch, seqLen, heads, perBatch: true }),
    );
    const got = await readFloats(device, y, data.length);
    (outputs.output.data as number[]).forEach((want, i) => {
      expect(Math.abs(got[i]! - want), `${name}[${i}]`).toBeLessThan(1e-6);
    });
    for (const buffer of [x, y, turns]) release(buffer);
  }
  expect(cases.length).toBeGreaterThanOrEqual(5);
});
