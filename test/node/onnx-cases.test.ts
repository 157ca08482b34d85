/** The harness of the ONNX cases must not pass where nothing was compared. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadOnnxCases, type OnnxCase, onnxErrors } from "../onnx-attention.ts";
import { onnxCasesPath } from "../onnx-cases-path.ts";

it("RINGWISE_ONNX_CASES counts from where npm was called, then from the working directory", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringwise-onnx-"));
  try {
    writeFileSync(join(folder, "mine.json"), "[]");
    expect(onnxCasesPath({})).toBe(null);
    const env = { RINGWISE_ONNX_CASES: "mine.json" };
    expect(onnxCasesPath({ ...env, INIT_CWD: folder }, "/")).toBe(join(folder, "mine.json"));
    expect(onnxCasesPath({ ...env, INIT_CWD: "/" }, folder)).toBe(join(folder, "mine.json"));
    expect(onnxCasesPath(env, folder)).toBe(join(folder, "mine.json"));
    expect(onnxCasesPath({ RINGWISE_ONNX_CASES: "absent.json", INIT_CWD: folder }, "/")).toBe(
      join(folder, "absent.json"),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

it("a file without cases is refused", () => {
  for (const text of ["[]", "{}", '{"cases": []}'])
    expect(() => loadOnnxCases(text)).toThrow("expected a list of ONNX");
});

describe("outputs are compared by their place in node_outputs", () => {
  const tensor = (...data: number[]) => ({ shape: [data.length], dtype: "f32", data });
  const onnxCase = (rest: Partial<OnnxCase>): OnnxCase => ({
    ...{
      name: "made up",
      attributes: {},
      node_inputs: ["q", "k", "v", "", "pk", "pv"],
      node_outputs: ["out", "", "later"],
    },
    ...{ inputs: { pk: tensor(1), pv: tensor(1) }, outputs: { out: tensor(1, 2), later: tensor(3) } },
    ...rest,
  });
  const computed = (y: number, value: number) => ({
    ...{ Y: Float32Array.of(1, y), present_key: Float32Array.of(9), present_value: Float32Array.of(value) },
  });

  it("under any name", () => {
    expect(onnxErrors(onnxCase({}), computed(2, 3))).toEqual([]);
    expect(onnxErrors(onnxCase({}), computed(2.5, 4))).toEqual([
      "Y[1]: got 2.5, expected 2",
      "present_value[0]: got 4, expected 3",
    ]);
  });

  it("and one that is missing on either side fails", () => {
    expect(onnxErrors(onnxCase({ outputs: { later: tensor(3) } }), computed(2, 3))).toEqual([
      'Y ("out"): the case expects nothing of it',
    ]);
    expect(onnxErrors(onnxCase({ node_outputs: [] }), computed(2, 3))).toEqual([
      'Y (""): the case expects nothing of it',
    ]);
    expect(onnxErrors(onnxCase({}), { Y: Float32Array.of(1, 2) })).toEqual([
      'present_value ("later"): nothing was computed',
    ]);
  });
});
