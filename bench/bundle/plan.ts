/** What a run covers: which cases, with which kernels, and which part of the table. */
import { attentionCandidates, type CandidateInfo, describeAdapter } from "../../src/index.ts";
import { type AttentionCase, TEST_CASES } from "../../test/cases.ts";
import { caseNames } from "../cases.ts";
import type { ConformanceJob, Implementation } from "./conformance.ts";

/** Odd sizes, shared heads, every mask at once. Few: CPU drivers compile a kernel for seconds. */
const QUICK_CASES = ["uneven", "gqa", "everything"];

/** What `--quick` measures. */
const QUICK_BENCH_CASES = ["prefill-1024-causal", "decode-4096", "matmul-1024"];

const DEFAULT: Implementation = { name: "chosen by default", options: {} };
const KINDS: readonly Implementation[] = [
  { name: "vanilla", options: { kind: "vanilla" } },
  { name: "blockwise", options: { kind: "blockwise", blockSize: 16 } },
];

/** Query rows per K/V head: decides whether a call counts as one of few rows (below 16) or of many. */
const rowsOf = ({ seqLen, heads, kvHeads }: AttentionCase): number => (seqLen * heads) / kvHeads;

/**
 * Every kernel that there is, each on the cases whose work it does, with room at the border: where the border moves, a
 * case that a candidate does not do is computed by another one, and is right or wrong all the same.
 */
function candidates(device: GPUDevice): Implementation[] {
  const options = { heads: 2, headDim: 16, isCausal: true };
  const { isCpu } = describeAdapter(device);
  const all = attentionCandidates(device, options);
  // What the adapter is likely to run comes first, should time run out: workgroup tiles on a GPU, registers on a CPU.
  const isLikely = ({ designs }: CandidateInfo) => designs.includes("tile") !== isCpu;
  return [...all.filter(isLikely), ...all.filter((info) => !isLikely(info))].map(({ id, works }) => ({
    name: `candidate ${id}`,
    options: { candidate: id },
    concerns: (shape) =>
      (works.includes("many-rows") && rowsOf(shape) >= 8) || (works.includes("few-rows") && rowsOf(shape) < 32),
  }));
}

/** Cases, kernels and element types that this device can run; the default choice and the plain kinds come first. */
export function conformanceJob(
  device: GPUDevice,
  isQuick: boolean,
): Pick<ConformanceJob, "cases" | "implementations" | "dtypes"> {
  return {
    cases: TEST_CASES.filter(({ name }) => !isQuick || QUICK_CASES.includes(name)),
    implementations: isQuick ? [DEFAULT, KINDS[0]!] : [DEFAULT, ...KINDS, ...candidates(device)],
    dtypes: describeAdapter(device).hasF16 ? ["f32", "f16"] : ["f32"],
  };
}

/** Names of the bench cases: all of the report on a GPU, those that are bearable on a CPU adapter. */
export function benchCases(device: GPUDevice, isQuick: boolean): string[] {
  if (isQuick) return [...QUICK_BENCH_CASES];
  return caseNames(describeAdapter(device).isCpu ? "default" : "report");
}
