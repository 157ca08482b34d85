import { beforeAll, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createAttention } from "../../src/kernels/attention.ts";
import { expectClose, expected, makeInputs, optionsOf, uploadCase } from "../attention-harness.ts";
import { TEST_CASES } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});

describe.each(["flash", "blockwise", "vanilla"] as const)("createAttention, kind %s", (kind) => {
  it.each(TEST_CASES.map((c) => [c.name, c] as const))("%s", async (_name, c) => {
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const attention = await createAttention(device, { ...optionsOf(c), kind, blockSize: 16 });
    const got = await gpu.run((target) => attention.encode(target, gpu.tensors));
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    expect(got.output.some(Number.isNaN)).toBe(false);
    attention.destroy();
    gpu.destroy();
  });
});
