import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import type { Activation, MatmulDesign } from "../../src/kernels/matmul.ts";
import { createMlp, mlpFlops } from "../../src/kernels/mlp.ts";
import { referenceMlp } from "../../src/reference/mlp.ts";
import type { WeightDtype } from "../../src/shape.ts";
import { expectWithinRule, randomTensor, readFloats, submit, type Tensor, zeros } from "../dense-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

interface Case {
  tokens: number;
  hiddenSize: number;
  intermediateSize: number;
  mlpChunkSize: number;
  activation: Activation;
  gated: boolean;
  hasBias: boolean;
  accumulate: boolean;
  weightDtype: WeightDtype;
  design: MatmulDesign;
  /** Tokens of the scratch that the caller brings. */
  scratchTokens?: number;
}

async function check(c: Case): Promise<void> {
  const { tokens, hiddenSize, intermediateSize, gated, hasBias, weightDtype } = c;
  const make = (isWanted: boolean, count: number, seed: number, amplitude = 0.3) =>
    isWanted ? randomTensor(count, weightDtype, seed, amplitude) : undefined;
  const tensors = {
    gate: make(gated, intermediateSize * hiddenSize, 1),
    up: make(true, intermediateSize * hiddenSize, 2)!,
    down: make(true, hiddenSize * intermediateSize, 3)!,
    gateBias: make(gated && hasBias, intermediateSize, 4),
    upBias: make(hasBias, intermediateSize, 5),
    downBias: make(hasBias, hiddenSize, 6),
  };
  const input = randomTensor(tokens * hiddenSize, "f32", 7, 2).values;
  const residual = randomTensor(tokens * hiddenSize, "f32", 8).values;
  using mlp = await createMlp(device, { ...c, scratch: c.scratchTokens ? "caller" : "own" });
  const scratch = c.scratchTokens ? await zeros(device, "scratch", c.scratchTokens * intermediateSize) : undefined;
  const names = Object.entries(tensors).filter((entry): entry is [string, Tensor] => Boolean(entry[1]));
  const buffers: Record<string, GPUBuffer> = {};
  for (const [name, tensor] of names) buffers[name] = await upload(device, name, tensor.bytes);
  const x = await upload(device, "x", input);
  const y = await upload(device, "y", residual);
  const weights = buffers as { up: GPUBuffer; down: GPUBuffer };
  submit(device, (encoder) =>
    mlp.encode(encoder, { input: x, output: y, tokens, accumulate: c.accumulate, scratch, ...weights }),
  );
  const got = await readFloats(device, y, tokens * hiddenSize);
  for (const buffer of [x, y, ...Object.values(buffers)]) release(buffer);
  if (scratch) release(scratch);
  const call = {
    ...{ ...c, input, residual: c.accumulate ? residual : undefined },
    ...{ up: tensors.up.values, down: tensors.down.values, gate: tensors.gate?.values },
    ...{ gateBias: tensors.gateBias?.values, upBias: tensors.upBias?.values, downBias: tensors.downBias?.values },
  };
  expectWithinRule(JSON.stringify(c), got, referenceMlp(call), referenceMlp(call, "f32"));
}

const base: Case = {
  ...{ tokens: 37, hiddenSize: 24, intermediateSize: 52, mlpChunkSize: 16, weightDtype: "f32", design: "auto" },
  ...{ activation: "silu", gated: true, hasBias: false, accumulate: true },
};

it("SwiGLU over chunks, onto the residual, in every design", async () => {
  for (const design of ["register", "subgroup", "tile", "decode"] as const) await check({ ...base, design });
});

it("uses the caller's memory between its products, however little that is", async () => {
  for (const scratchTokens of [1, 5, 100]) await check({ ...base, scratchTokens });
  const held = ledgerOf(device).total.bytes;
  using mlp = await createMlp(device, { ...base, scratch: "caller" });
  expect(ledgerOf(device).total.bytes).toBe(held);
  const [x, tiny] = [await zeros(device, "x", 24), await zeros(device, "tiny", 4)];
  const tensors = { input: x, output: x, tokens: 1, gate: x, up: x, down: x };
  const encode = (scratch?: GPUBuffer) => submit(device, (encoder) => mlp.encode(encoder, { ...tensors, scratch }));
  expect(() => encode()).toThrow("expected a scratch, got none");
  expect(() => encode(tiny)).toThrow("expected scratch of at least one token (208 bytes), got 16 bytes");
  for (const buffer of [x, tiny]) release(buffer);
});

it("GELU, erf and tanh, with biases", async () => {
  await check({ ...base, gated: false, hasBias: true, activation: "gelu", weightDtype: "f16" });
  await check({ ...base, gated: false, hasBias: true, activation: "gelu_tanh", accumulate: false });
});

it("any sizes, chunks and types", async () => {
  const size = fc.integer({ min: 1, max: 45 });
  await fc.assert(
    fc.asyncProperty(
      fc.record<Case>({
        tokens: size,
        hiddenSize: size,
        intermediateSize: size,
        mlpChunkSize: fc.integer({ min: 1, max: 50 }),
        activation: fc.constantFrom<Activation>("silu", "gelu"),
        gated: fc.boolean(),
        hasBias: fc.boolean(),
        accumulate: fc.boolean(),
        weightDtype: fc.constantFrom<WeightDtype>("f32", "bf16"),
        design: fc.constant("auto"),
      }),
      check,
    ),
    { numRuns: 15 },
  );
});

it("takes one chunk's intermediate and not a byte more, however long the sequence", async () => {
  const [hiddenSize, intermediateSize, mlpChunkSize] = [16, 64, 32];
  const ledger = ledgerOf(device);
  const weights = {
    gate: await zeros(device, "gate", hiddenSize * intermediateSize),
    up: await zeros(device, "up", hiddenSize * intermediateSize),
    down: await zeros(device, "down", hiddenSize * intermediateSize),
  };
  const extras: number[] = [];
  for (const tokens of [32, 256, 2048]) {
    const x = await zeros(device, "x", tokens * hiddenSize);
    const y = await zeros(device, "y", tokens * hiddenSize);
    const before = ledger.total.bytes;
    ledger.resetPeaks();
    using mlp = await createMlp(device, { ...base, hiddenSize, intermediateSize, mlpChunkSize });
    submit(device, (encoder) => mlp.encode(encoder, { input: x, output: y, tokens, ...weights }));
    await device.queue.onSubmittedWorkDone();
    extras.push(ledger.total.peakBytes - before);
    expect(mlp.scratchByteLength).toBe(mlpChunkSize * intermediateSize * 4);
    for (const buffer of [x, y]) release(buffer);
  }
  expect(extras).toEqual(extras.map(() => mlpChunkSize * intermediateSize * 4));
  for (const buffer of Object.values(weights)) release(buffer);
});

it("counts its work, and names a missing gate", async () => {
  expect(mlpFlops({ hiddenSize: 10, intermediateSize: 20, gated: true }, 3)).toBe(3600);
  expect(mlpFlops({ hiddenSize: 10, intermediateSize: 20, gated: false }, 3)).toBe(2400);
  const w = await zeros(device, "w", 52 * 24);
  const [x, y] = [await zeros(device, "x", 24), await zeros(device, "y", 24)];
  using mlp = await createMlp(device, { ...base, label: "layer 3" });
  expect(() =>
    submit(device, (encoder) => mlp.encode(encoder, { input: x, output: y, tokens: 1, up: w, down: w })),
  ).toThrow('mlp("layer 3"): expected a gate, got none');
  for (const buffer of [w, x, y]) release(buffer);
});
