/** Which attention kernel runs with which tile sizes: data, each with the measurement behind it. */
import { UnsupportedDeviceError } from "../errors.ts";
import { describeAdapter } from "../gpu/device.ts";
import type { KernelSource, KnobValue } from "../gpu/specialize.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import { ATTENTION, ATTENTION_FEW, ATTENTION_TILE } from "./sources.ts";

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

/** Rows and keys that one invocation of attention.wgsl holds: literal in its text. */
const REGISTER_ROWS = 8;
/** Rows that one invocation of attention-few.wgsl holds: literal in its text. */
const FEW_ROWS = 4;
const WORKGROUP_TILE_ROWS = 64;
/** Bytes of workgroup memory that attention-tile.wgsl may fill: what every WebGPU device has. */
const WORKGROUP_TILE_BYTES = 16_384;

/**
 * The kernel for this device, these options, and many or few query rows.
 *
 * `auto`: the workgroup design on a GPU; on a CPU adapter (SwiftShader, lavapipe), where barriers cost most, the register
 * design, with key tiles shared by quads where subgroups are exactly quads (SwiftShader).
 * @throws {UnsupportedDeviceError} for design "subgroup" on a device without subgroups of at least 4.
 */
export function chooseKernel(
  device: GPUDevice,
  resolved: ResolvedAttention,
  work: "many-rows" | "few-rows",
): AttentionKernelChoice {
  const { isCpu, hasSubgroups, subgroupMinSize, subgroupMaxSize } = describeAdapter(device);
  const { design } = resolved;
  if (design === "subgroup" && !(hasSubgroups && subgroupMinSize >= 4))
    throw new UnsupportedDeviceError(
      `attention: expected a device with subgroups of at least 4 for design "subgroup", got ${hasSubgroups ? `subgroups of ${subgroupMinSize}` : "none"}`,
    );
  const isTile = design === "tile" || (design === "auto" && !isCpu);
  if (work === "few-rows" && design !== "tile")
    return {
      source: ATTENTION_FEW,
      knobs: { WORKGROUP_SIZE: 16 },
      rows: FEW_ROWS,
      unitsPerWorkgroup: 16,
      quads: false,
    };
  if (isTile) {
    const lanes = Math.ceil(Math.max(resolved.headDim, resolved.valueDim) / 4);
    const keys = Math.min(32, Math.floor(WORKGROUP_TILE_BYTES / 16 / lanes));
    const knobs = { WORKGROUP_SIZE: WORKGROUP_TILE_ROWS, TILE_KV: keys };
    return { source: ATTENTION_TILE, knobs, rows: WORKGROUP_TILE_ROWS, unitsPerWorkgroup: 1, quads: false };
  }
  const quads =
    design === "subgroup" || (design === "auto" && hasSubgroups && subgroupMinSize === 4 && subgroupMaxSize === 4);
  return {
    source: ATTENTION,
    knobs: { WORKGROUP_SIZE: 16, QUAD: quads ? 4 : 1 },
    rows: REGISTER_ROWS,
    unitsPerWorkgroup: 16,
    quads,
  };
}
