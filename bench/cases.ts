/** Every case that `ringwise bench` knows by name: the attention shapes of test/cases.ts, ring, memory and models. */
import { ATTENTION_CASES } from "../test/cases.ts";
import { isBenchable, measureAttention } from "./jobs/attention.ts";
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

const CASES: readonly BenchCase[] = [...attentionCases];

/** Names of the cases: all, or those that run where none is asked for. */
export const caseNames = (which: "all" | "default" = "all"): string[] =>
  CASES.filter((benchCase) => which === "all" || benchCase.isDefault).map(({ name }) => name);

/** The case of a name. @throws {RangeError} where there is none. */
export function findCase(name: string): BenchCase {
  const found = CASES.find((benchCase) => benchCase.name === name);
  if (!found) throw new RangeError(`findCase: no bench case named "${name}"`);
  return found;
}
