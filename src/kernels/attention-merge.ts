/** Finalize and merge: states -> output and lse, or states -> one state. */
import { OptionError, ShapeError } from "../errors.ts";
import { type BufferSource, viewOf } from "../gpu/buffers.ts";
import { type CommandTarget, dispatch, placeholder, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { type BindingKind, getKernel, type Kernel } from "../gpu/pipeline.ts";
import { type KernelSource, specialize } from "../gpu/specialize.ts";
import { expectInteger } from "../shape.ts";
import { type ResolvedAttention, stateKnobs, usesVec4 } from "./attention-options.ts";
import { type AttentionFields, type BoundTensor, bindTensor, packFields, stridesOf } from "./attention-params.ts";
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

/** States on the GPU, as {@link AttentionMerger.encodeOutput} takes them. */
export interface BoundStates {
  states: BoundTensor;
  parts: number;
  /** f32 elements from one part to the next. */
  partStride: number;
  batch: number;
  seqLen: number;
  /** K/V heads that count, from the first. */
  kvHeads: number;
}

/** Where {@link AttentionMerger.encodeOutput} writes: bindings, and the o_* and lse_* fields. */
export interface BoundOutput {
  output: GPUBufferBinding;
  lse: GPUBuffer | GPUBufferBinding;
  sinks: GPUBuffer | GPUBufferBinding | null;
  fields: AttentionFields;
}

/** The compiled finalize and merge kernels of one set of options. */
export interface AttentionMerger {
  encodeFinalize(target: CommandTarget, tensors: FinalizeTensors): void;
  encodeMerge(target: CommandTarget, tensors: MergeTensors): void;
  /** Parts -> output and lse, with everything bound already. */
  encodeOutput(target: CommandTarget, from: BoundStates, to: BoundOutput): void;
  /** Parts -> one state, with everything bound already. */
  encodeState(target: CommandTarget, from: BoundStates, to: StatePlace, keepInto: boolean): void;
}

/** Where a state lies: its binding, and the fields that say where acc, rowMax and rowSum begin. */
export interface StatePlace {
  binding: GPUBufferBinding;
  oSkip: number;
  maxSkip: number;
  sumSkip: number;
}

const WORKGROUP_SIZE = 64;

/** Compiles finalize.wgsl and merge.wgsl. */
export async function createAttentionMerger(device: GPUDevice, resolved: ResolvedAttention): Promise<AttentionMerger> {
  const lib = ATTENTION_LIB;
  const base = [lib.params, lib.elem, lib.weight];
  const sinks: BindingKind | null = resolved.hasSinks ? "read" : null;
  const compile = (kernel: KernelSource, extra: KernelSource[], bindings: (BindingKind | null)[]) =>
    getKernel(device, {
      label: `${kernel.file} ${resolved.label}`,
      source: specialize({ ...kernel, lib: [...base, ...extra] }, { ...stateKnobs(resolved), WORKGROUP_SIZE }),
      bindings,
    });
  const [finalize, merge] = await Promise.all([
    compile(
      FINALIZE,
      [usesVec4(resolved) ? lib.outputVec4 : lib.outputScalar, resolved.hasSinks ? lib.sinks : lib.sinksNone],
      ["uniform", "read", null, null, "read-write", "read-write", null, ...Array(6).fill(null), sinks],
    ),
    compile(MERGE, [], ["uniform", "read", null, null, null, null, "read-write"]),
  ]);
  return new Merger(device, resolved, finalize, merge);
}

class Merger implements AttentionMerger {
  constructor(
    private readonly device: GPUDevice,
    private readonly resolved: ResolvedAttention,
    private readonly finalize: Kernel,
    private readonly merge: Kernel,
  ) {}

  encodeFinalize(target: CommandTarget, tensors: FinalizeTensors): void {
    const { state, ...rest } = tensors;
    this.encode("encodeFinalize", target, { ...rest, states: state, parts: 1, partByteStride: 0 });
  }

  encodeMerge(target: CommandTarget, tensors: MergeTensors): void {
    this.encode("encodeMerge", target, tensors);
  }

  private encode(where: string, target: CommandTarget, tensors: MergeTensors): void {
    const { device, resolved } = this;
    const { heads, kvHeads, valueDim, layout } = resolved;
    const batch = expectInteger(where, "batch", tensors.batch);
    const seqLen = expectInteger(where, "seqLen", tensors.seqLen);
    const parts = expectInteger(where, "parts", tensors.parts);
    const partStride = expectInteger(where, "partByteStride", tensors.partByteStride, 0) / 4;
    const sizes = stateElements(resolved, batch, seqLen);
    if (parts > 1 && (!Number.isInteger(partStride) || partStride < sizes.total))
      throw new OptionError(
        `${where}: expected partByteStride to be a multiple of 4 of at least ${sizes.total * 4}, got ${tensors.partByteStride}`,
      );
    const f32 = (name: string, source: BufferSource | undefined, shape: number[], elements?: number) =>
      bindTensor(device, where, source, { name, shape, elements, bytesPerElement: 4 });
    const states = f32("states", tensors.states, [parts, sizes.total], partStride * (parts - 1) + sizes.total);
    const from = { states, parts, partStride, batch, seqLen, kvHeads };
    if (!tensors.output === !tensors.into)
      throw new ShapeError(`${where}: expected either output or into, got ${tensors.output ? "both" : "neither"}`);
    if (tensors.into) {
      if (viewOf(tensors.into).buffer === viewOf(tensors.states).buffer)
        throw new OptionError(`${where}: expected into and states to lie in different buffers, got one`);
      const { binding, skip } = f32("into", tensors.into, [sizes.total]);
      const to = { binding, oSkip: skip, maxSkip: skip + sizes.maxSkip, sumSkip: skip + sizes.sumSkip };
      this.encodeState(target, from, to, tensors.keepInto ?? false);
      return;
    }
    const output = bindTensor(device, where, tensors.output, {
      name: "output",
      shape: layout === "bthd" ? [batch, seqLen, heads, valueDim] : [batch, heads, seqLen, valueDim],
      bytesPerElement: resolved.bytesPerElement,
      multipleOf: usesVec4(resolved) ? 4 : 1,
    });
    const lse = tensors.lse && f32("lse", tensors.lse, [batch, heads, seqLen]);
    if (!resolved.hasSinks && tensors.sinks)
      throw new ShapeError(`${where}: got sinks, but the attention was created without hasSinks`);
    const sinks = resolved.hasSinks ? f32("sinks", tensors.sinks, [heads]) : undefined;
    const strides = stridesOf(layout, seqLen, heads, valueDim);
    this.encodeOutput(target, from, {
      output: output.binding,
      lse: lse?.binding ?? placeholder(device, "lse"),
      sinks: sinks?.binding ?? null,
      fields: {
        ...{ oBatch: strides.batch, oToken: strides.token, oHead: strides.head, oSkip: output.skip },
        ...{ lseSkip: lse?.skip ?? 0, hasLse: lse ? 1 : 0, lseBatch: heads * seqLen, lseHead: seqLen },
        sinkSkip: sinks?.skip ?? 0,
      },
    });
  }

  encodeOutput(target: CommandTarget, from: BoundStates, to: BoundOutput): void {
    const { device, resolved } = this;
    const rows = from.batch * from.seqLen * from.kvHeads * resolved.group;
    const lanes = rows * Math.ceil(resolved.valueDim / 4);
    dispatch(device, target, {
      kernel: this.finalize,
      bindings: [
        uniforms(device, packFields({ ...this.partFields(from), ...to.fields })),
        ...[from.states.binding, null, null, to.output, to.lse],
        ...Array(7).fill(null),
        to.sinks,
      ],
      workgroups: spreadWorkgroups(device, Math.ceil(lanes / WORKGROUP_SIZE)),
    });
  }

  encodeState(target: CommandTarget, from: BoundStates, to: StatePlace, keepInto: boolean): void {
    const { device, resolved } = this;
    // merge.wgsl reads the places of its target in fields that it has no other use for.
    const places = { qSkip: to.oSkip, oSkip: to.maxSkip, lseSkip: to.sumSkip, isFirst: keepInto ? 0 : 1 };
    const lanes = from.batch * from.seqLen * resolved.heads;
    dispatch(device, target, {
      kernel: this.merge,
      bindings: [
        uniforms(device, packFields({ ...this.partFields(from), ...places })),
        ...[from.states.binding, null, null, null, null, to.binding],
      ],
      workgroups: spreadWorkgroups(device, Math.ceil(lanes / WORKGROUP_SIZE)),
    });
  }

  private partFields({ states, parts, partStride, batch, seqLen, kvHeads }: BoundStates): AttentionFields {
    const { strides, skip, maxSkip, sumSkip } = stateFields(this.resolved, batch, seqLen, states.skip);
    return {
      ...{ batch, seqLen, kvHeads, splits: parts, splitStride: partStride, maxSkip, sumSkip },
      ...{ kBatch: strides.batch, kToken: strides.token, kHead: strides.head, kSkip: skip },
    };
  }
}
