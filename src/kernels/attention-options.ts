/** Attention options with their defaults filled in and checked, and what they mean to the kernels. */
import { OptionError, UnsupportedDeviceError } from "../errors.ts";
import { expectF16 } from "../gpu/device.ts";
import type { BindingKind } from "../gpu/pipeline.ts";
import type { KernelSource, KnobValue } from "../gpu/specialize.ts";
import { type AttentionLayout, BYTES_PER_ELEMENT, type Dtype, expectInteger, expectOneOf } from "../shape.ts";
import type { AttentionDesign, AttentionKind, AttentionOptions } from "./attention-types.ts";
import { ATTENTION_LIB } from "./sources.ts";

/** {@link AttentionOptions}, complete. */
export interface ResolvedAttention {
  heads: number;
  kvHeads: number;
  /** Query heads that share one K/V head. */
  group: number;
  headDim: number;
  valueDim: number;
  dtype: Dtype;
  bytesPerElement: number;
  layout: AttentionLayout;
  scale: number;
  /** 0: none. */
  softcap: number;
  isCausal: boolean;
  /** 1: plain causal. */
  causalBlockSize: number;
  /** 0: none. */
  window: number;
  mask: "none" | "additive" | "boolean";
  hasSegments: boolean;
  hasKvLengths: boolean;
  hasSinks: boolean;
  kind: AttentionKind;
  design: AttentionDesign;
  candidate?: string;
  expectedSeqLen: number;
  blockSize: number;
  label: string;
}

/** Largest headDim and valueDim. */
export const MAX_HEAD_DIM = 256;

function finiteNumber(where: string, name: string, value: unknown, min: number): number {
  if (typeof value === "number" && Number.isFinite(value) && value >= min) return value;
  throw new OptionError(
    `${where}: expected ${name} to be a finite number${min === 0 ? " of at least 0" : ""}, got ${String(value)}`,
  );
}

/**
 * Fills in defaults and checks every option.
 * @throws {OptionError} naming the option, what was expected and what came.
 */
export function resolveAttention(where: string, options: AttentionOptions): ResolvedAttention {
  const heads = expectInteger(where, "heads", options.heads, 1, 65_535);
  const kvHeads = expectInteger(where, "kvHeads", options.kvHeads ?? heads, 1, heads);
  if (heads % kvHeads !== 0)
    throw new OptionError(`${where}: expected kvHeads to divide heads, got heads ${heads} and kvHeads ${kvHeads}`);
  const headDim = expectInteger(where, "headDim", options.headDim, 1, MAX_HEAD_DIM);
  const valueDim = expectInteger(where, "valueDim", options.valueDim ?? headDim, 1, MAX_HEAD_DIM);
  const dtype = expectOneOf(where, "dtype", options.dtype ?? "f32", ["f32", "f16"]);
  const isCausal = options.isCausal ?? false;
  const causalBlockSize = expectInteger(where, "causalBlockSize", options.causalBlockSize ?? 1, 1, 2 ** 31 - 1);
  if (causalBlockSize > 1 && !isCausal)
    throw new OptionError(`${where}: causalBlockSize ${causalBlockSize} needs isCausal: true`);
  const window = options.window === undefined ? 0 : expectInteger(where, "window", options.window, 1, 2 ** 31 - 1);
  return {
    heads,
    kvHeads,
    group: heads / kvHeads,
    headDim,
    valueDim,
    dtype,
    bytesPerElement: BYTES_PER_ELEMENT[dtype],
    layout: expectOneOf(where, "layout", options.layout ?? "bthd", ["bthd", "bhtd"]),
    scale: finiteNumber(where, "scale", options.scale ?? 1 / Math.sqrt(headDim), Number.NEGATIVE_INFINITY),
    softcap: finiteNumber(where, "softcap", options.softcap ?? 0, 0),
    isCausal,
    causalBlockSize,
    window,
    mask: expectOneOf(where, "mask", options.mask ?? "none", ["none", "additive", "boolean"]),
    hasSegments: options.hasSegments ?? false,
    hasKvLengths: options.hasKvLengths ?? false,
    hasSinks: options.hasSinks ?? false,
    kind: expectOneOf(where, "kind", options.kind ?? "flash", ["vanilla", "flash", "blockwise", "ring"]),
    design: expectOneOf(where, "design", options.design ?? "auto", ["auto", "register", "tile", "subgroup"]),
    candidate: options.candidate,
    expectedSeqLen: expectInteger(where, "expectedSeqLen", options.expectedSeqLen ?? 2048),
    blockSize: expectInteger(where, "blockSize", options.blockSize ?? 1024),
    label: options.label ?? "attention",
  };
}

/** Where a kernel's rows go: into a state, or straight into output and lse. */
export type AttentionTarget = "state" | "output";

/** Whether elements can be met four at a time. */
export const usesVec4 = (resolved: ResolvedAttention): boolean =>
  resolved.headDim % 4 === 0 && resolved.valueDim % 4 === 0;

/**
 * The `lib/` files of an attention kernel with these options. `quads`: key tiles are read once per quad; `readsItself`: the
 * kernel binds and reads query, key and value itself.
 */
export function attentionLib(
  resolved: ResolvedAttention,
  target: AttentionTarget,
  { quads = false, readsItself = false }: { quads?: boolean; readsItself?: boolean } = {},
): KernelSource[] {
  const lib = ATTENTION_LIB;
  const isVec4 = usesVec4(resolved);
  const list = [
    ...[lib.params, lib.elem, lib.positions, lib.scoreTile, lib.weight],
    ...(readsItself ? [] : [isVec4 ? lib.lanesVec4 : lib.lanesScalar, quads ? lib.keysQuad : lib.keysPlain]),
    resolved.hasKvLengths ? lib.lengths : lib.lengthsNone,
    resolved.hasSegments ? lib.segments : lib.segmentsNone,
    resolved.hasSegments || resolved.mask !== "none" ? lib.pairs : lib.pairsNone,
  ];
  if (resolved.mask === "none") list.push(lib.maskNone);
  else list.push(lib.maskIndex, resolved.mask === "additive" ? lib.maskAdditive : lib.maskBoolean);
  if (target === "state") list.push(lib.intoState);
  else
    list.push(
      lib.intoOutput,
      isVec4 ? lib.outputVec4 : lib.outputScalar,
      resolved.hasSinks ? lib.sinks : lib.sinksNone,
    );
  return list;
}

/** Knobs of the `lib/` files that {@link attentionLib} names. */
export function attentionKnobs(resolved: ResolvedAttention): Record<string, KnobValue> {
  return {
    ...stateKnobs(resolved),
    CAUSAL: resolved.isCausal,
    CAUSAL_BLOCK: resolved.causalBlockSize,
    WINDOW: resolved.window,
    SOFTCAP: resolved.softcap > 0,
  };
}

/** Knobs of the kernels that see states only (finalize, merge). */
export function stateKnobs(resolved: ResolvedAttention): Record<string, KnobValue> {
  return {
    HEADS: resolved.heads,
    KV_HEADS: resolved.kvHeads,
    HEAD_DIM: resolved.headDim,
    VALUE_DIM: resolved.valueDim,
    Elem: resolved.dtype,
  };
}

/** Kinds of bindings 0 to 13, as `lib/` and the attention kernels number them. */
export function attentionBindings(resolved: ResolvedAttention, target: AttentionTarget): (BindingKind | null)[] {
  const output = target === "output";
  const has = (condition: boolean): BindingKind | null => (condition ? "read" : null);
  return [
    "uniform",
    "read",
    "read",
    "read",
    output ? "read-write" : null,
    output ? "read-write" : null,
    target === "state" ? "read-write" : null,
    "read",
    "read",
    has(resolved.mask !== "none"),
    has(resolved.hasSegments),
    has(resolved.hasSegments),
    has(resolved.hasKvLengths),
    has(output && resolved.hasSinks),
  ];
}

/** How many storage buffers a kernel binds at once with these options. */
export const storageBindings = (resolved: ResolvedAttention, target: AttentionTarget): number =>
  attentionBindings(resolved, target).filter((kind) => kind !== null && kind !== "uniform").length;

/** @throws {UnsupportedDeviceError} where the device lacks f16, or binds too few storage buffers for these options. */
export function checkAttentionDevice(
  where: string,
  device: GPUDevice,
  resolved: ResolvedAttention,
  target: AttentionTarget,
): void {
  expectF16(where, device, resolved.dtype);
  const need = storageBindings(resolved, target);
  const most = device.limits.maxStorageBuffersPerShaderStage;
  if (need > most)
    throw new UnsupportedDeviceError(
      `${where}: these options bind ${need} storage buffers at once, and this device allows ${most} (maxStorageBuffersPerShaderStage)`,
    );
}
