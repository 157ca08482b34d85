import { beforeAll, describe, expect, it } from "vitest";
import { allocate, release } from "../../src/gpu/buffers.ts";
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
