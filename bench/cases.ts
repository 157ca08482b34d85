/** Every case that `ringwise bench` knows by name: the attention shapes of test/cases.ts, ring, memory and models. */
import { ATTENTION_CASES } from "../test/cases.ts";
import { isBenchable, measureAttention } from "./jobs/attention.ts";
import { MLP_LENGTHS, measureMlp } from "./jobs/memory.ts";
import { type ModelCase, measureModel } from "./jobs/model.ts";
import { measureRing, type RingCase } from "./jobs/ring.ts";
import type { BenchJob, BenchResult } from "./result-types.ts";

/** A named case. */
export interface BenchCase {
  name: string;
  /** Measured where no `--case` is given. */
  isDefault: boolean;
  measure(device: GPUDevice, job: BenchJob): Promise<BenchResult[]>;
}

const attentionCases: BenchCase[] = ATTENTION_CASES.filter(isBenchable).map((shape) => ({
  name: shape.name,
  isDefault: shape.use === "bench",
  measure: (device, job) =>
    measureAttention(
      device,
      job,
      shape,
      job.attention.map((kind) => ({ kind, design: job.design })),
    ),
}));

const RING_CASES: readonly RingCase[] = [
  { name: "ring-4-of-2048", seqLen: 2048, isCausal: false, layout: "contiguous", worldSize: 4 },
  { name: "ring-4-of-2048-causal", seqLen: 2048, isCausal: true, layout: "zigzag", worldSize: 4 },
  { name: "ring-4-of-4096-causal", seqLen: 4096, isCausal: true, layout: "zigzag", worldSize: 4 },
];

const ringCases: BenchCase[] = RING_CASES.map((shape) => ({
  name: shape.name,
  isDefault: true,
  measure: (device, job) => measureRing(device, job, shape),
}));

const mlpCases: BenchCase[] = MLP_LENGTHS.map((tokens) => ({
  name: `mlp-${tokens}`,
  isDefault: true,
  measure: (device, job) => measureMlp(device, job, tokens),
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
  name: shape.name,
  isDefault,
  measure: (device) => measureModel(device, shape),
}));

const CASES: readonly BenchCase[] = [...attentionCases, ...ringCases, ...mlpCases, ...modelCases];

/** Names of the cases: all, or those that run where none is asked for. */
export const caseNames = (which: "all" | "default" = "all"): string[] =>
  CASES.filter((benchCase) => which === "all" || benchCase.isDefault).map(({ name }) => name);

/** The case of a name. @throws {RangeError} where there is none. */
export function findCase(name: string): BenchCase {
  const found = CASES.find((benchCase) => benchCase.name === name);
  if (!found) throw new RangeError(`findCase: no bench case named "${name}"`);
  return found;
}
