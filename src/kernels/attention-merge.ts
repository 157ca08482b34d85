/** Finalize and merge: states -> output and lse, or states -> one state. */
import { OptionError, ShapeError } from "../errors.ts";
import { type BufferSource, viewOf } from "../gpu/buffers.ts";
import { type CommandTarget, dispatch, placeholder, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { type BindingKind, getKernel, type Kernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { expectInteger, formatShape } from "../shape.ts";
import { type ResolvedAttention, stateKnobs, usesVec4 } from "./attention-options.ts";
import { type AttentionFields, bindTensor, packFields, stridesOf } from "./attention-params.ts";
import { ATTENTION_LIB, FINALIZE, MERGE } from "./sources.ts";

/** Sizes of a state: acc `[B, T, H, E]` (or `[B, H, T, E]`), then rowMax `[B, H, T]` (base 2), then rowSum `[B, H, T]`. */
export function stateElements(resolved: ResolvedAttention, batch: number, seqLen: number) {
  const rows = batch * resolved.heads * seqLen;
  const acc = rows * resolved.valueDim;
  return { acc, rows, maxSkip: acc, sumSkip: acc + rows, total: acc + 2 * rows };
}

/** The fields that say where acc, rowMax and rowSum lie in a state bound with `skip` elements to spare. */
export function stateFields(resolved: ResolvedAttention, batch: number, seqLen: number, skip: number) {
  const sizes = stateElements(resolved, batch, seqLen);
  const strides = stridesOf(resolved.layout, seqLen, resolved.heads, resolved.valueDim);
  return { strides, skip, maxSkip: skip + sizes.maxSkip, sumSkip: skip + sizes.sumSkip, total: sizes.total };
}

/** One state becomes output and lse. */
export interface FinalizeTensors {
  state: BufferSource;
  /** `[B, T, H, E]` (or `[B, H, T, E]`) in the attention's dtype. */
  output: BufferSource;
  /** f32 `[B, H, T]`, natural log. */
  lse?: BufferSource;
  batch: number;
  seqLen: number;
  /** f32 `[H]`; needed exactly with `hasSinks`. */
  sinks?: BufferSource;
}

/** Several states become output and lse, or one state. */
export interface MergeTensors {
  /** `parts` states, `partByteStride` bytes apart. */
  states: BufferSource;
  parts: number;
  /** A multiple of 4. */
  partByteStride: number;
  batch: number;
  seqLen: number;
  /** Give `output` (and `lse`), or `into`. */
  output?: BufferSource;
  lse?: BufferSource;
  /** The state that the parts are merged into; in another buffer than `states`. */
  into?: BufferSource;
  /** With `into`: merge also what that state holds already. Default false. */
  keepInto?: boolean;
  /** f32 `[H]`; needed with `output` exactly with `hasSinks`. */
  sinks?: BufferSource;
}

/** The compiled finalize and merge kernels of one set of options. */
export interface AttentionMerger {
  encodeFinalize(target: CommandTarget, tensors: FinalizeTensors): void;
  encodeMerge(target: CommandTarget, tensors: MergeTensors): void;
}

const WORKGROUP_SIZE = 64;

/** Compiles finalize.wgsl and merge.wgsl. */
export async function createAttentionMerger(device: GPUDevice, resolved: ResolvedAttention): Promise<AttentionMerger> {
  const lib = ATTENTION_LIB;
  const lanes = usesVec4(resolved) ? lib.lanesVec4 : lib.lanesScalar;
  const base = [lib.params, lanes, lib.weight];
  const sinks: BindingKind | null = resolved.hasSinks ? "read" : null;
  const compile = (kernel: typeof FINALIZE, extra: (typeof lib.sinks)[], bindings: (BindingKind | null)[]) =>
    getKernel(device, {
      label: `${kernel.file} ${resolved.label}`,
      source: specialize({ ...kernel, lib: [...base, ...extra] }, { ...stateKnobs(resolved), WORKGROUP_SIZE }),
      bindings,
    });
  const [finalize, merge] = await Promise.all([
    compile(
      FINALIZE,
      [resolved.hasSinks ? lib.sinks : lib.sinksNone],
      ["uniform", "read", null, null, "read-write", "read-write", null, ...Array(6).fill(null), sinks],
    ),
    compile(MERGE, [], ["uniform", "read", null, null, null, null, "read-write"]),
  ]);
  return {
    encodeFinalize(target, tensors) {
      const { state, output, lse, batch, seqLen } = tensors;
      const call = { states: state, parts: 1, partByteStride: 0, batch, seqLen, output, lse, sinks: tensors.sinks };
      encodeParts("encodeFinalize", device, finalize, merge, resolved, target, call);
    },
    encodeMerge(target, tensors) {
      encodeParts("encodeMerge", device, finalize, merge, resolved, target, tensors);
    },
  };
}

function encodeParts(
  where: string,
  device: GPUDevice,
  finalize: Kernel,
  merge: Kernel,
  resolved: ResolvedAttention,
  target: CommandTarget,
  tensors: MergeTensors,
): void {
  const batch = expectInteger(where, "batch", tensors.batch);
  const seqLen = expectInteger(where, "seqLen", tensors.seqLen);
  const parts = expectInteger(where, "parts", tensors.parts);
  const stride = expectInteger(where, "partByteStride", tensors.partByteStride, 0) / 4;
  const sizes = stateElements(resolved, batch, seqLen);
  if (parts > 1 && (!Number.isInteger(stride) || stride < sizes.total))
    throw new OptionError(
      `${where}: expected partByteStride to be a multiple of 4 of at least ${sizes.total * 4}, got ${tensors.partByteStride}`,
    );
  const elements = stride * (parts - 1) + sizes.total;
  const states = bindTensor(device, where, tensors.states, {
    name: "states",
    shape: [parts, sizes.total],
    elements,
    bytesPerElement: 4,
  });
  const from = stateFields(resolved, batch, seqLen, states.skip);
  const shared: AttentionFields = {
    ...{ batch, seqLen, splits: parts, splitStride: stride, maxSkip: from.maxSkip, sumSkip: from.sumSkip },
    ...{ kBatch: from.strides.batch, kToken: from.strides.token, kHead: from.strides.head, kSkip: from.skip },
  };
  if (!tensors.output === !tensors.into)
    throw new ShapeError(`${where}: expected either output or into, got ${tensors.output ? "both" : "neither"}`);
  if (tensors.into) {
    if (viewOf(tensors.into).buffer === viewOf(tensors.states).buffer)
      throw new OptionError(`${where}: into must lie in another buffer than states`);
    const into = bindTensor(device, where, tensors.into, { name: "into", shape: [sizes.total], bytesPerElement: 4 });
    const to = stateFields(resolved, batch, seqLen, into.skip);
    const fields = {
      ...shared,
      isFirst: tensors.keepInto ? 0 : 1,
      qSkip: to.skip,
      oSkip: to.maxSkip,
      lseSkip: to.sumSkip,
    };
    dispatch(device, target, {
      kernel: merge,
      bindings: [uniforms(device, packFields(fields)), states.binding, null, null, null, null, into.binding],
      workgroups: spreadWorkgroups(device, Math.ceil(sizes.rows / WORKGROUP_SIZE)),
    });
    return;
  }
  const { heads, valueDim, hasSinks } = resolved;
  const outputShape = resolved.layout === "bthd" ? [batch, seqLen, heads, valueDim] : [batch, heads, seqLen, valueDim];
  const lanes = usesVec4(resolved) ? 4 : 1;
  const output = bindTensor(device, where, tensors.output, {
    name: "output",
    shape: outputShape,
    bytesPerElement: resolved.bytesPerElement,
    multipleOf: lanes,
  });
  const lse =
    tensors.lse &&
    bindTensor(device, where, tensors.lse, { name: "lse", shape: [batch, heads, seqLen], bytesPerElement: 4 });
  if (!hasSinks && tensors.sinks)
    throw new ShapeError(`${where}: got sinks ${formatShape([heads])}, but the attention was created without hasSinks`);
  const sinks = hasSinks
    ? bindTensor(device, where, tensors.sinks, { name: "sinks", shape: [heads], bytesPerElement: 4 })
    : undefined;
  const fields: AttentionFields = {
    ...shared,
    ...{ oBatch: from.strides.batch, oToken: from.strides.token, oHead: from.strides.head, oSkip: output.skip },
    ...{ lseSkip: lse?.skip ?? 0, hasLse: lse ? 1 : 0, sinkSkip: sinks?.skip ?? 0 },
  };
  dispatch(device, target, {
    kernel: finalize,
    bindings: [
      uniforms(device, packFields(fields)),
      states.binding,
      ...[null, null],
      output.binding,
      lse?.binding ?? placeholder(device, "lse"),
      ...Array(7).fill(null),
      sinks?.binding ?? null,
    ],
    workgroups: spreadWorkgroups(device, Math.ceil(sizes.acc / lanes / WORKGROUP_SIZE)),
  });
}
