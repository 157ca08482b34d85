/** What a run covers: which cases, with which kernels. */
import { describeAdapter } from "../../src/index.ts";
import { TEST_CASES } from "../../test/cases.ts";
import type { ConformanceJob, Implementation } from "./conformance.ts";

/** One of each concern of the conformance cases. */
const QUICK_CASES = ["uneven", "gqa", "window", "everything", "decode"];

/** What `--quick` measures. */
export const QUICK_BENCH_CASES = ["prefill-1024", "prefill-1024-causal", "decode-4096"];

const IMPLEMENTATIONS: readonly Implementation[] = [
  { name: "chosen by default", options: {} },
  { name: "design register", options: { design: "register" } },
  { name: "design tile", options: { design: "tile" } },
  { name: "design subgroup", options: { design: "subgroup" } },
  { name: "blockwise", options: { kind: "blockwise", blockSize: 16 } },
  { name: "vanilla", options: { kind: "vanilla" } },
];

/** Cases, kernels and element types that this device can run. */
export function conformanceJob(
  device: GPUDevice,
  isQuick: boolean,
): Pick<ConformanceJob, "cases" | "implementations" | "dtypes"> {
  return {
    cases: TEST_CASES.filter(({ name }) => !isQuick || QUICK_CASES.includes(name)),
    implementations: isQuick ? IMPLEMENTATIONS.slice(0, 3) : IMPLEMENTATIONS,
    dtypes: describeAdapter(device).hasF16 ? ["f32", "f16"] : ["f32"],
  };
}
