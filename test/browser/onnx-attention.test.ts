/**
 * The ONNX operator Attention (opsets 23 and 24), case by case: outputs Y, present_key and present_value. The raw QK scores
 * that some cases also ask for are nothing that a fused kernel has; the cases themselves all run. Cases in f16 run as f16
 * where the device has shader-f16, else in f32 on the same numbers. RINGWISE_ONNX_CASES names another file of the same form,
 * which must then be there; only the file in ../shared may be absent.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { loadOnnxCases, onnxErrors, runOnnxAttention } from "../onnx-attention.ts";

const path = __ONNX_CASES__ ?? `${__SHARED__}/goldens/onnx-attention.json`;
const response = await fetch(`/@fs${path}`);
if (!response.ok && __ONNX_CASES__)
  throw new Error(`RINGWISE_ONNX_CASES: expected a file of cases, got none at ${path}`);
const cases = response.ok ? loadOnnxCases(await response.text()) : undefined;
if (!cases) console.warn(`SKIPPED: ${path} is absent, so the ONNX Attention cases did not run`);

describe.skipIf(!cases)("ONNX Attention", () => {
  let device: GPUDevice;
  beforeAll(async () => {
    device = await requestRingwiseDevice();
  });

  it.each((cases ?? []).map((onnxCase) => [onnxCase.name, onnxCase] as const))("%s", async (_name, onnxCase) => {
    const outputs = await runOnnxAttention(device, onnxCase);
    expect(onnxErrors(onnxCase, outputs)).toEqual([]);
  });
});
