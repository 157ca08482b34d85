/**
 * The f16 kernels, in Node on an adapter that has shader-f16: Mesa's lavapipe 25 through the npm package `webgpu`, or
 * whatever adapter is there. Chrome's SwiftShader has none. Skipped, loudly, where no such adapter is found.
 */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { UnsupportedDeviceError } from "../../src/errors.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createAttention } from "../../src/kernels/attention.ts";
import { expectClose, expected, makeInputs, optionsOf, uploadCase } from "../attention-harness.ts";
import { type AttentionCase, TEST_CASES } from "../cases.ts";
import { loadOnnxCases, onnxErrors, runOnnxAttention } from "../onnx-attention.ts";

const LAVAPIPE = "/usr/share/vulkan/icd.d/lvp_icd.json";

async function f16Device(): Promise<GPUDevice | undefined> {
  if (existsSync(LAVAPIPE)) process.env.VK_ICD_FILENAMES ??= LAVAPIPE;
  // An optional package: it has no build for some platforms.
  const webgpu = await import("webgpu").catch(() => undefined);
  if (!webgpu) return undefined;
  Object.assign(globalThis, webgpu.globals);
  const gpu = webgpu.create([]);
  // Dawn for Node lets go of everything with the instance.
  (globalThis as { ringwiseTestGpu?: GPU }).ringwiseTestGpu = gpu;
  try {
    const device = await requestRingwiseDevice({ gpu });
    return device.features.has("shader-f16") ? device : undefined;
  } catch (error) {
    if (error instanceof UnsupportedDeviceError) return undefined;
    throw error;
  }
}

const device = await f16Device();
if (!device)
  console.warn("SKIPPED: no adapter with shader-f16 here (Mesa 25's lavapipe has it), f16 attention did not run");

describe.skipIf(!device)("f16 attention", { timeout: 300_000 }, () => {
  const names = ["gqa", "head-dim-5-value-7", "mask-boolean", "decode-few-rows"];
  const cases: AttentionCase[] = TEST_CASES.filter((c) => names.includes(c.name)).map((c) => ({ ...c, dtype: "f16" }));
  const decode = { ...TEST_CASES.find(({ name }) => name === "decode")!, kvHeads: 4, dtype: "f16" } as const;
  // What CPU adapters get by default, then what compiles faster: vec4 rows, odd rows, masks, few rows.
  const runs = [
    ...cases.slice(0, 1).map((c) => [`${c.name}, flash`, c, {}] as const),
    // One token: the kernel of decode. Not several, whose kernel lavapipe compiles for 40 s.
    ["decode, flash", decode, {}] as const,
    ...cases.slice(0, -1).map((c) => [`${c.name}, tile design`, c, { design: "tile" }] as const),
    ...cases.map((c) => [`${c.name}, vanilla`, c, { kind: "vanilla" }] as const),
  ];

  it.each(runs)("%s", async (_name, c, extra) => {
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device!, c, inputs);
    const attention = await createAttention(device!, { ...optionsOf(c), ...extra });
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
