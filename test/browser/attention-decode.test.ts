/** Every decode kernel of its own (attention-decode.wgsl), whatever the device would choose, and where it is stood in for. */
import { beforeAll, describe, expect, it } from "vitest";
import { allocate, release } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createAttention } from "../../src/kernels/attention.ts";
import { describeCall, wholeCall } from "../../src/kernels/attention-call.ts";
import { AttentionEngine } from "../../src/kernels/attention-engine.ts";
import { resolveAttention } from "../../src/kernels/attention-options.ts";
import { ATTENTION_CANDIDATES } from "../../src/kernels/candidates.ts";
import { kernelOf } from "../../src/kernels/tiles.ts";
import { countPasses, expectClose, expected, makeInputs, optionsOf, uploadCase } from "../attention-harness.ts";
import type { AttentionCase } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});

/** Odd numbers everywhere: of keys, so that splits and pairs of keys end unevenly, and of rows. */
const base: AttentionCase = {
  ...{ name: "decode kernel", use: "test", batch: 2, seqLen: 1, kvSeqLen: 331, heads: 2, kvHeads: 2, headDim: 32 },
  ...{ dtype: "f32", isCausal: true, queryStart: 330 },
};
const everything: Partial<AttentionCase> = {
  ...{ seqLen: 3, queryStart: 190, valueDim: 48, softcap: 5, window: 150, causalBlockSize: 3 },
  ...{ hasSegments: true, hasKvLengths: true, hasSinks: true, mask: "additive", layout: "bhtd" },
};
const group = (heads: number): Partial<AttentionCase> => ({ heads, kvHeads: 2 });

describe.each([
  ["decode-1x2", {}],
  ["decode-1x1", {}],
  ["decode-2x1", group(4)],
  ["decode-4x1", group(6)],
  ["decode-8x1", group(10)],
] as const)("%s", (id, heads) => {
  it.each([
    ["one token", {}],
    ["a few tokens with every mask", everything],
  ] as const)("%s", async (_name, rest) => {
    const c: AttentionCase = { ...base, ...heads, ...rest };
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const resolved = resolveAttention("test", optionsOf(c));
    const candidate = ATTENTION_CANDIDATES.find((one) => one.id === id)!;
    const choice = kernelOf(candidate, "forced", "test");
    const trial = { work: "few-rows", choice } as const;
    const engine = await AttentionEngine.create(device, resolved, { scratchTokens: 32, hasOneShot: false, trial });
    const call = describeCall(device, "test", resolved, gpu.tensors);
    const got = await gpu.run((target) => engine.encodeSplit(target, call, wholeCall(resolved, call), 4));
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    expect(got.output.some(Number.isNaN)).toBe(false);
    engine.destroy();
    gpu.destroy();
  });
});

it("keys and values that begin within a quarter of a row, and many tokens, are met by a kernel that can", async () => {
  const c: AttentionCase = { ...base, batch: 1, kvSeqLen: 150, queryStart: 149 };
  const inputs = makeInputs(c);
  const gpu = await uploadCase(device, c, inputs);
  const attention = await createAttention(device, optionsOf(c));
  const copies: GPUBuffer[] = [];
  const shifted = async (buffer: GPUBuffer, byteOffset: number) => {
    const copy = await allocate(device, { label: "shifted", byteLength: buffer.size + byteOffset });
    copies.push(copy);
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, copy, byteOffset, buffer.size);
    device.queue.submit([encoder.finish()]);
    return { buffer: copy, byteOffset };
  };
  // A quarter of a row is 32 bytes: at 16 no kernel of quarters can read, at 288 it can, 32 bytes into its binding.
  for (const byteOffset of [16, 288]) {
    const key = await shifted(gpu.tensors.key as GPUBuffer, byteOffset);
    const value = await shifted(gpu.tensors.value as GPUBuffer, byteOffset);
    const got = await gpu.run((target) => attention.encode(target, { ...gpu.tensors, key, value }));
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
  }
  const many: AttentionCase = { ...c, seqLen: 11, queryStart: 139 };
  const manyInputs = makeInputs(many);
  const manyGpu = await uploadCase(device, many, manyInputs);
  const got = await manyGpu.run((target) => attention.encode(target, manyGpu.tensors));
  expectClose(got, expected(many, manyInputs), expected(many, manyInputs, "f32"), many.dtype);
  attention.destroy();
  copies.forEach(release);
  gpu.destroy();
  manyGpu.destroy();
});

it("a batch large enough to keep the device busy is decoded unsplit by the same kernel: its states, and finalize", async () => {
  const c: AttentionCase = { ...base, batch: 16, heads: 4, kvHeads: 4, kvSeqLen: 70, queryStart: 69 };
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
