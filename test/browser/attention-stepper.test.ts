import { beforeAll, describe, expect, it } from "vitest";
import { allocate, release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createAttentionStepper } from "../../src/kernels/attention-stepper.ts";
import { expectClose, expected, makeInputs, optionsOf, uploadCase } from "../attention-harness.ts";
import { TEST_CASES } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});

describe("attention stepper: one step over all keys, then finalize", () => {
  it.each(TEST_CASES.map((c) => [c.name, c] as const))("%s", async (_name, c) => {
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const stepper = await createAttentionStepper(device, optionsOf(c));
    const state = await allocate(device, { label: "state", byteLength: stepper.stateByteLength(c.batch, c.seqLen) });
    const { output, lse, sinks, ...step } = gpu.tensors;
    const got = await gpu.run((target) => {
      stepper.encodeStep(target, { ...step, state, isFirst: true });
      stepper.encodeFinalize(target, { state, output, lse, batch: c.batch, seqLen: c.seqLen, sinks });
    });
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    expect(got.output.some(Number.isNaN)).toBe(false);
    for (const part of [stepper, gpu]) part.destroy();
    release(state);
  });
});

describe("attention stepper: blocks in any order, pages, listed positions, merges", () => {
  const c = TEST_CASES.find(({ name }) => name === "causal-longer-kv")!;
  const tokenBytes = c.kvHeads * c.headDim * 4;
  const block = (tensors: { key: unknown; value: unknown }, start: number, count: number) => ({
    key: { buffer: tensors.key as GPUBuffer, byteOffset: start * tokenBytes },
    value: { buffer: tensors.value as GPUBuffer, byteOffset: start * tokenBytes },
    ...{ kvSeqLen: count, kvCapacity: c.kvSeqLen - start },
  });
  const runs = [
    [40, 30],
    [0, 17],
    [17, 23],
  ] as const;

  it("one state meets three blocks, last one first, and one of them by listed positions", async () => {
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const stepper = await createAttentionStepper(device, optionsOf(c));
    const state = await allocate(device, { label: "state", byteLength: stepper.stateByteLength(1, c.seqLen) });
    const positions = await upload(
      device,
      "positions",
      Uint32Array.from({ length: 23 }, (_, i) => 17 + i),
    );
    const { output, lse, key, value, ...query } = gpu.tensors;
    const got = await gpu.run((target) => {
      runs.forEach(([start, count], index) => {
        const kvPositions = start === 17 ? { positions } : { start };
        const step = { ...query, ...block({ key, value }, start, count), kvPositions, state, isFirst: index === 0 };
        stepper.encodeStep(target, step);
      });
      stepper.encodeFinalize(target, { state, output, lse, batch: 1, seqLen: c.seqLen });
    });
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    for (const buffer of [state, positions]) release(buffer);
    stepper.destroy();
    gpu.destroy();
  });

  it("three states, one a block, merged into output, and by way of another state", async () => {
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const stepper = await createAttentionStepper(device, optionsOf(c));
    const size = stepper.stateByteLength(1, c.seqLen);
    const partByteStride = size + 52;
    const states = await allocate(device, { label: "states", byteLength: 3 * partByteStride });
    const whole = await allocate(device, { label: "state", byteLength: size });
    const { output, lse, key, value, ...query } = gpu.tensors;
    const steps = (target: Parameters<typeof stepper.encodeStep>[0]) =>
      runs.forEach(([start, count], index) => {
        const state = { buffer: states, byteOffset: index * partByteStride };
        const kvPositions = { start };
        stepper.encodeStep(target, {
          ...query,
          ...block({ key, value }, start, count),
          kvPositions,
          state,
          isFirst: true,
        });
      });
    const parts = { states, parts: 3, partByteStride, batch: 1, seqLen: c.seqLen };
    const direct = await gpu.run((target) => {
      steps(target);
      stepper.encodeMerge(target, { ...parts, output, lse });
    });
    const oracle = expected(c, inputs);
    expectClose(direct, oracle, expected(c, inputs, "f32"), c.dtype);
    const twice = await gpu.run((target) => {
      stepper.encodeMerge(target, { ...parts, parts: 2, into: whole });
      const last = { buffer: states, byteOffset: 2 * partByteStride };
      stepper.encodeMerge(target, { ...parts, states: last, parts: 1, into: whole, keepInto: true });
      stepper.encodeFinalize(target, { state: whole, output, lse, batch: 1, seqLen: c.seqLen });
    });
    expectClose(twice, oracle, expected(c, inputs, "f32"), c.dtype);
    for (const buffer of [states, whole]) release(buffer);
    stepper.destroy();
    gpu.destroy();
  });
});
