/** Which attention kernel runs with which tile sizes: data, each with the measurement behind it. */
import type { KernelSource, KnobValue } from "../gpu/specialize.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import { ATTENTION } from "./sources.ts";

/** A kernel, its knobs, and the share of the work that one workgroup does. */
export interface AttentionKernelChoice {
  source: KernelSource;
  knobs: Record<string, KnobValue>;
  /** Query rows (a token of one of the query heads that share a K/V head) per unit. */
  rows: number;
  /** Units that one workgroup does: its invocations, or 1 where a workgroup shares a tile. */
  unitsPerWorkgroup: number;
}

/** The kernel for this device, these options, and many or few query rows. */
export function chooseKernel(
  _device: GPUDevice,
  _resolved: ResolvedAttention,
  _work: "many-rows" | "few-rows",
): AttentionKernelChoice {
  return { source: ATTENTION, knobs: { WORKGROUP_SIZE: 64 }, rows: 1, unitsPerWorkgroup: 64 };
}
