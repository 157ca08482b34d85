/** Every case that `ringwise bench` knows by name: shapes of test/cases.ts, ring, memory, models, kernels, peaks; and suites of them. */
import type { Dtype, MatmulDesign } from "../src/index.ts";
import { ATTENTION_CASES, type AttentionCase, BENCH_CASES, MATMUL_CASES } from "../test/cases.ts";
import { type Implementation, isBenchable, measureAttention } from "./jobs/attention.ts";
import { KERNEL_CASE_NAMES, measureKernel } from "./jobs/kernels.ts";
import { measureMatmul } from "./jobs/matmul.ts";
import { MLP_LENGTHS, measureMlp } from "./jobs/memory.ts";
import { type ModelCase, measureModel } from "./jobs/model.ts";
import { measureRoofline, type RooflineCase } from "./jobs/model-roofline.ts";
import { measurePeakFma, measurePeakRead } from "./jobs/peaks.ts";
import { measureRing, type RingCase } from "./jobs/ring.ts";
import type { BenchJob, BenchResult } from "./result-types.ts";

/**
 * Sets of cases: `default`, bearable on two CPU cores; `report`, all that BENCHMARKS.md tells of this library alone; `all`,
 * also the small shapes of the tests.
 */
export const SUITES = ["default", "report", "all"] as const;
export type Suite = (typeof SUITES)[number];

/** A named case. */
export interface BenchCase {
  name: string;
  /** Of its results; a case that fails has one result with it, too. */
  group: BenchResult["group"];
  /** Measured where neither `--case` nor `--suite` is given. */
  isDefault: boolean;
  /** Part of the suite `report`. */
  isReported: boolean;
  measure(device: GPUDevice, job: BenchJob): Promise<BenchResult[]>;
}

/** The element types to measure: the job's, or all that the device can hold. */
const dtypesOf = (device: GPUDevice, job: BenchJob): readonly Dtype[] =>
  job.dtypes ?? (device.features.has("shader-f16") ? ["f32", "f16"] : ["f32"]);

/** Measures once per element type. */
const perDtype =
  (measure: (device: GPUDevice, job: BenchJob, dtype: Dtype) => Promise<BenchResult[]>): BenchCase["measure"] =>
  async (device, job) => {
    const results: BenchResult[] = [];
    for (const dtype of dtypesOf(device, job)) results.push(...(await measure(device, job, dtype)));
    return results;
  };

/** Too slow on a CPU adapter for a run that nobody chose, or told by another shape. */
const NOT_DEFAULT = new Set(["prefill-16384-causal", "decode-1024", "decode-gqa-16384", "head-dim-8", "head-dim-128"]);

const attentionCase = (shape: AttentionCase): BenchCase => ({
  ...{ name: shape.name, group: "attention" },
  isDefault: shape.use === "bench" && !NOT_DEFAULT.has(shape.name),
  isReported: shape.use === "bench",
  measure: perDtype((device, job, dtype) =>
    measureAttention(
      device,
      job,
      { ...shape, dtype },
      job.attention.map((kind) => ({ kind, design: job.design })),
    ),
  ),
});

const attentionCases = ATTENTION_CASES.filter(isBenchable).map(attentionCase);

/** Short: on a CPU adapter the designs for GPUs take twenty times as long as the chosen one. */
const prefillShape = { ...BENCH_CASES.find(({ name }) => name === "prefill-1024")!, seqLen: 512, kvSeqLen: 512 };
const decodeShape = BENCH_CASES.find(({ name }) => name === "decode-4096")!;

/** Every attention kernel, also those that this adapter would not choose: for the headers of the files. */
const DESIGN_CASES: readonly { name: string; shape: AttentionCase; implementation: Implementation }[] = [
  { name: "design-register-512", shape: prefillShape, implementation: { kind: "flash", design: "register" } },
  { name: "design-tile-512", shape: prefillShape, implementation: { kind: "flash", design: "tile" } },
  { name: "design-vanilla-512", shape: prefillShape, implementation: { kind: "vanilla", design: "auto" } },
  {
    ...{ name: "design-few-4096", shape: decodeShape },
    implementation: { kind: "flash", design: "auto", candidate: "few-4x16" },
  },
];

const designCases: BenchCase[] = DESIGN_CASES.map(({ name, shape, implementation }) => ({
  ...{ name, group: "attention", isDefault: false, isReported: true },
  measure: (device, job) => measureAttention(device, job, { ...shape, name, dtype: "f32" }, [implementation]),
}));

const matmulCases: BenchCase[] = MATMUL_CASES.map((shape) => ({
  ...{ name: shape.name, group: "matmul", isDefault: true, isReported: true },
  measure: perDtype((device, job, dtype) => measureMatmul(device, job, shape, dtype)),
}));

const MATMUL_DESIGN_CASES: readonly MatmulDesign[] = ["register", "tile"];

const matmulDesignCases: BenchCase[] = MATMUL_DESIGN_CASES.map((design) => {
  const shape = { name: `design-matmul-${design}-512`, rows: 512, inFeatures: 512, outFeatures: 512, design };
  return {
    ...{ name: shape.name, group: "matmul", isDefault: false, isReported: true },
    measure: (device, job) => measureMatmul(device, job, shape, "f32"),
  };
});

const RING_CASES: readonly RingCase[] = [
  { name: "ring-4-of-2048", seqLen: 2048, isCausal: false, layout: "contiguous", worldSize: 4 },
  { name: "ring-4-of-2048-causal", seqLen: 2048, isCausal: true, layout: "zigzag", worldSize: 4 },
  { name: "ring-4-of-4096-causal", seqLen: 4096, isCausal: true, layout: "zigzag", worldSize: 4 },
];

const ringCases: BenchCase[] = RING_CASES.map((shape) => ({
  ...{ name: shape.name, group: "ring", isDefault: true, isReported: true },
  measure: (device, job) => measureRing(device, job, shape),
}));

const mlpCases: BenchCase[] = MLP_LENGTHS.map((tokens) => ({
  ...{ name: `mlp-${tokens}`, group: "memory", isDefault: true, isReported: true },
  measure: perDtype((device, job, dtype) => measureMlp(device, job, tokens, dtype)),
}));

const MODEL_CASES: readonly (ModelCase & { isDefault: boolean })[] = [
  { ...{ name: "model-debug", preset: "debug", promptTokens: 1024, newTokens: 32 }, ring: {}, isDefault: true },
  {
    ...{ name: "model-debug-ring-4", preset: "debug", promptTokens: 1024, newTokens: 32 },
    ring: { worldSize: 4 },
    isDefault: true,
  },
  // Too large for a default run on a CPU adapter.
  { ...{ name: "model-200m", preset: "200m", promptTokens: 256, newTokens: 16 }, ring: {}, isDefault: false },
  { ...{ name: "model-1b", preset: "1b", promptTokens: 256, newTokens: 16 }, ring: {}, isDefault: false },
];

const modelCases: BenchCase[] = MODEL_CASES.map(({ isDefault, ...shape }) => ({
  // The larger models are measured beside their peers ("bench --against").
  ...{ name: shape.name, group: "model", isDefault, isReported: isDefault },
  measure: (device) => measureModel(device, shape),
}));

const ROOFLINE_CASES: readonly RooflineCase[] = [
  { name: "roofline-debug-prefill", preset: "debug", tokens: 512, context: 0 },
  { name: "roofline-debug-decode", preset: "debug", tokens: 1, context: 512 },
  { name: "roofline-200m-prefill", preset: "200m", tokens: 256, context: 0 },
  { name: "roofline-200m-decode", preset: "200m", tokens: 1, context: 256 },
];

const rooflineCases: BenchCase[] = ROOFLINE_CASES.map((shape) => ({
  ...{ name: shape.name, group: "model", isDefault: false, isReported: true },
  measure: (device, job) => measureRoofline(device, job, shape),
}));

const kernelCases: BenchCase[] = KERNEL_CASE_NAMES.map((name) => ({
  ...{ name, group: "bandwidth", isDefault: false, isReported: true },
  measure: (device, job) => measureKernel(device, job, name),
}));

const peakCases: BenchCase[] = [
  { name: "fma-peak", group: "bandwidth", isDefault: true, isReported: true, measure: measurePeakFma },
  { name: "read-peak", group: "bandwidth", isDefault: true, isReported: true, measure: measurePeakRead },
];

const CASES: readonly BenchCase[] = [
  ...[...peakCases, ...attentionCases, ...designCases, ...matmulCases, ...matmulDesignCases],
  ...[...ringCases, ...mlpCases, ...modelCases, ...rooflineCases, ...kernelCases],
];

/** Names of the cases of a suite. */
export const caseNames = (suite: Suite = "all"): string[] =>
  CASES.filter(({ isDefault, isReported }) => suite === "all" || (suite === "default" ? isDefault : isReported)).map(
    ({ name }) => name,
  );

/** The case of a name. @throws {RangeError} where there is none. */
export function findCase(name: string): BenchCase {
  const found = CASES.find((benchCase) => benchCase.name === name);
  if (!found) throw new RangeError(`findCase: no bench case named "${name}"`);
  return found;
}
