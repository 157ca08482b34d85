/** Which attention kernel runs with which tile sizes: data, each with the measurement behind it. */
import { describeAdapter } from "../gpu/device.ts";
import type { KernelSource, KnobValue } from "../gpu/specialize.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import { ATTENTION, ATTENTION_FEW } from "./sources.ts";

/** A kernel, its knobs, and the share of the work that one workgroup does. */
export interface AttentionKernelChoice {
  source: KernelSource;
  knobs: Record<string, KnobValue>;
  /** Query rows (a token of one of the query heads that share a K/V head) per unit. */
  rows: number;
  /** Units that one workgroup does: its invocations, or 1 where a workgroup shares a tile. */
  unitsPerWorkgroup: number;
  /** Whether four invocations share the reading of keys and values. */
  quads: boolean;
}

/** The kernel for this device, these options, and many or few query rows. */
export function chooseKernel(
  device: GPUDevice,
  resolved: ResolvedAttention,
  work: "many-rows" | "few-rows",
): AttentionKernelChoice {
  const { isCpu, subgroupMinSize, subgroupMaxSize } = describeAdapter(device);
  const quads =
    resolved.design === "subgroup" ||
    (resolved.design === "auto" &&
      isCpu &&
      device.features.has("subgroups") &&
      subgroupMinSize === 4 &&
      subgroupMaxSize === 4);
  if (work === "few-rows")
    return { source: ATTENTION_FEW, knobs: { WORKGROUP_SIZE: 16 }, rows: 4, unitsPerWorkgroup: 16, quads: false };
  return { source: ATTENTION, knobs: { WORKGROUP_SIZE: 16 }, rows: 8, unitsPerWorkgroup: 16, quads };
}
