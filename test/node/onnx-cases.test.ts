/** The harness of the ONNX cases must not pass where nothing was compared. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { loadOnnxCases } from "../onnx-attention.ts";
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
