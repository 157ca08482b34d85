/**
 * The f16 kernels, in Node on an adapter that has shader-f16: Mesa's lavapipe 25 through the npm package `webgpu`, or
 * whatever adapter is there. Chrome's SwiftShader has none. Skipped, loudly, where no such adapter is found.
 */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createAttention } from "../../src/kernels/attention.ts";
import { expectClose, expected, makeInputs, optionsOf, uploadCase } from "../attention-harness.ts";
import { type AttentionCase, TEST_CASES } from "../cases.ts";
import { loadOnnxCases, onnxErrors, runOnnxAttention } from "../onnx-attention.ts";

const LAVAPIPE = "/usr/share/vulkan/icd.d/lvp_icd.json";

async function f16Device(): Promise<GPUDevice | undefined> {
  if (existsSync(LAVAPIPE)) process.env.VK_ICD_FILENAMES ??= LAVAPIPE;
  try {
    const { create, globals } = await import("webgpu");
    Object.assign(globalThis, globals);
    const gpu = create([]);
    // Dawn for Node lets go of everything with the instance.
    (globalThis as { ringwiseTestGpu?: GPU }).ringwiseTestGpu = gpu;
    const device = await requestRingwiseDevice({ gpu });
    return device.features.has("shader-f16") ? device : undefined;
  } catch {
    return undefined;
  }
}

const device = await f16Device();
if (!device)
  console.warn("SKIPPED: no adapter with shader-f16 here (Mesa 25's lavapipe has it), f16 attention did not run");

describe.skipIf(!device)("f16 attention", { timeout: 300_000 }, () => {
  const names = ["gqa"];
  const cases: AttentionCase[] = TEST_CASES.filter((c) => names.includes(c.name)).map((c) => ({ ...c, dtype: "f16" }));

  it.each(cases.map((c) => [c.name, c] as const))("%s", async (_name, c) => {
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device!, c, inputs);
    const attention = await createAttention(device!, optionsOf(c));
    const got = await gpu.run((target) => attention.encode(target, gpu.tensors));
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), "f16");
    attention.destroy();
    gpu.destroy();
  });

  const path = `${__SHARED__}/goldens/onnx-attention.json`;
  const onnxCases = existsSync(path)
    ? loadOnnxCases(readFileSync(path, "utf8")).filter((c) => c.inputs.Q!.dtype === "f16")
    : [];
  if (onnxCases.length === 0) console.warn(`SKIPPED: ${path} is absent, so the ONNX f16 cases did not run`);
  it.each(onnxCases.map((c) => [c.name, c] as const))("ONNX %s", async (_name, onnxCase) => {
    expect(onnxErrors(onnxCase, await runOnnxAttention(device!, onnxCase))).toEqual([]);
  });
});
