/**
 * The pieces of which attention over many K/V blocks is made: a step (queries meet one block, the state is updated), and
 * finalize and merge. Few query rows (decode) are split over keys, so that the whole device has work.
 */
import { DestroyedError, ShapeError } from "../errors.ts";
import { allocate, type BufferSource, release } from "../gpu/buffers.ts";
import { type CommandTarget, dispatch, placeholder, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel, type Kernel } from "../gpu/pipeline.ts";
import { type KernelSource, type KnobValue, specialize } from "../gpu/specialize.ts";
import { expectInteger } from "../shape.ts";
import {
  type AttentionMerger,
  createAttentionMerger,
  type FinalizeTensors,
  type MergeTensors,
  stateElements,
  stateFields,
} from "./attention-merge.ts";
import {
  type AttentionTarget,
  attentionBindings,
  attentionKnobs,
  attentionLib,
  checkAttentionDevice,
  type ResolvedAttention,
  resolveAttention,
  usesVec4,
} from "./attention-options.ts";
import {
  type AttentionFields,
  bindMask,
  bindPositions,
  bindTensor,
  packFields,
  stridesOf,
} from "./attention-params.ts";
import type { AttentionOptions, AttentionStepTensors, AttentionTensors } from "./attention-types.ts";
import { ATTENTION } from "./sources.ts";

/** Attention in steps. All `encode*` are synchronous, take no GPU memory and submit nothing. */
export interface AttentionStepper {
  /** Bytes of one state: acc `[B, T, H, E]` (or by layout), rowMax `[B, H, T]` (base 2), rowSum `[B, H, T]`, all f32. */
  stateByteLength(batch: number, seqLen: number): number;
  /** The queries meet one K/V block; the state is updated. Blocks may come in any order, each once. */
  encodeStep(target: CommandTarget, tensors: AttentionStepTensors): void;
  /** State -> output and lse. The state is left as it is. */
  encodeFinalize(target: CommandTarget, tensors: FinalizeTensors): void;
  /** Several states -> output and lse, or one state. */
  encodeMerge(target: CommandTarget, tensors: MergeTensors): void;
  destroy(): void;
  [Symbol.dispose](): void;
}

/** Bytes set aside for the partial states of a key split. */
const SPLIT_SCRATCH_BYTES = 1 << 20;
/** A split over keys is worth it below so many invocations, and goes no finer than so many keys. */
const SPLIT_INVOCATIONS = 64;
const SPLIT_MIN_KEYS = 128;

const WORKGROUP_SIZE = 64;

/** Fields and bindings that a step and a one-shot call have in common. */
export function bindCall(
  device: GPUDevice,
  where: string,
  resolved: ResolvedAttention,
  tensors: Omit<AttentionTensors, "output" | "lse"> & { kvCapacity?: number },
) {
  const { heads, kvHeads, headDim, valueDim, layout, bytesPerElement } = resolved;
  const batch = expectInteger(where, "batch", tensors.batch);
  const seqLen = expectInteger(where, "seqLen", tensors.seqLen);
  const kvLen = expectInteger(where, "kvSeqLen", tensors.kvSeqLen);
  const capacity = expectInteger(where, "kvCapacity", tensors.kvCapacity ?? kvLen, kvLen);
  const multipleOf = usesVec4(resolved) ? 4 : 1;
  const shape = (tokens: number, count: number, dim: number) =>
    layout === "bthd" ? [batch, tokens, count, dim] : [batch, count, tokens, dim];
  const query = bindTensor(device, where, tensors.query, {
    ...{ name: "query", shape: shape(seqLen, heads, headDim), bytesPerElement, multipleOf },
  });
  /** A page's last slab of tokens (per batch entry, or per head) need not be there beyond the tokens that are filled. */
  const filled = (dim: number) =>
    layout === "bthd"
      ? ((batch - 1) * capacity + kvLen) * kvHeads * dim
      : ((batch * kvHeads - 1) * capacity + kvLen) * dim;
  const bindKv = (name: string, source: BufferSource, dim: number) =>
    bindTensor(device, where, source, {
      ...{ name, shape: shape(capacity, kvHeads, dim), elements: filled(dim), bytesPerElement, multipleOf },
    });
  const key = bindKv("key", tensors.key, headDim);
  const value = bindKv("value", tensors.value, valueDim);
  const queryPositions = bindPositions(device, where, "queryPositions", tensors.queryPositions, batch, seqLen);
  const kvPositions = bindPositions(device, where, "kvPositions", tensors.kvPositions, batch, kvLen);
  const given = (name: string, source: unknown, isWanted: boolean, option: string) => {
    if (source && !isWanted)
      throw new ShapeError(`${where}: got ${name}, but the attention was created without ${option}`);
  };
  given("mask", tensors.mask, resolved.mask !== "none", "mask");
  given("querySegments", tensors.querySegments ?? tensors.kvSegments, resolved.hasSegments, "hasSegments");
  given("kvLengths", tensors.kvLengths, resolved.hasKvLengths, "hasKvLengths");
  given("sinks", tensors.sinks, resolved.hasSinks, "hasSinks");
  const u32 = (name: string, source: BufferSource | undefined, dims: number[]) =>
    bindTensor(device, where, source, { name, shape: dims, bytesPerElement: 4 });
  const mask = resolved.mask === "none" ? undefined : bindMask(device, where, tensors.mask, resolved, batch);
  const querySegments = resolved.hasSegments ? u32("querySegments", tensors.querySegments, [batch, seqLen]) : undefined;
  const kvSegments = resolved.hasSegments ? u32("kvSegments", tensors.kvSegments, [batch, kvLen]) : undefined;
  const lengths = resolved.hasKvLengths ? u32("kvLengths", tensors.kvLengths, [batch]) : undefined;
  const q = stridesOf(layout, seqLen, heads, headDim);
  const k = stridesOf(layout, capacity, kvHeads, headDim);
  const v = stridesOf(layout, capacity, kvHeads, valueDim);
  const LOG2_E = Math.LOG2E;
  const fields: AttentionFields = {
    ...{ batch, seqLen, kvLen, kvHeads },
    ...{ qBatch: q.batch, qToken: q.token, qHead: q.head, qSkip: query.skip },
    ...{ kBatch: k.batch, kToken: k.token, kHead: k.head, kSkip: key.skip },
    ...{ vBatch: v.batch, vToken: v.token, vHead: v.head, vSkip: value.skip },
    ...{ qListed: queryPositions.listed, qStart: queryPositions.start, qStep: queryPositions.step },
    ...{ qListSkip: queryPositions.list?.skip ?? 0, kvListSkip: kvPositions.list?.skip ?? 0 },
    ...{ kvListed: kvPositions.listed, kvStart: kvPositions.start, kvStep: kvPositions.step },
    ...{ qSegmentSkip: querySegments?.skip ?? 0, kvSegmentSkip: kvSegments?.skip ?? 0, lengthSkip: lengths?.skip ?? 0 },
    ...mask?.fields,
    scoreScale: resolved.softcap > 0 ? resolved.scale / resolved.softcap : resolved.scale * LOG2_E,
    softcapScale: resolved.softcap * LOG2_E,
    ...{ splits: 1, splitKeys: kvLen },
  };
  const bindings = [
    null, // 0: the uniform block
    query.binding,
    key.binding,
    value.binding,
    ...[null, null, null], // 4 to 6: output, lse, state
    queryPositions.list?.binding ?? placeholder(device),
    kvPositions.list?.binding ?? placeholder(device),
    mask?.binding ?? null,
    querySegments?.binding ?? null,
    kvSegments?.binding ?? null,
    lengths?.binding ?? null,
    null, // 13: sinks
  ];
  return { batch, seqLen, kvLen, fields, bindings };
}

/** Compiles one attention kernel for a target. */
export function compileAttention(
  device: GPUDevice,
  resolved: ResolvedAttention,
  target: AttentionTarget,
  kernel: KernelSource,
  knobs: Record<string, KnobValue>,
): Promise<Kernel> {
  return getKernel(device, {
    label: `${kernel.file} ${resolved.label} ${target}`,
    source: specialize({ ...kernel, lib: attentionLib(resolved, target) }, { ...attentionKnobs(resolved), ...knobs }),
    bindings: attentionBindings(resolved, target),
  });
}

/**
 * Compiles the step, finalize and merge kernels for one set of options.
 * @throws {OptionError} for a bad option.
 * @throws {UnsupportedDeviceError} where the device lacks what the options need.
 */
export async function createAttentionStepper(device: GPUDevice, options: AttentionOptions): Promise<AttentionStepper> {
  const where = "createAttentionStepper";
  const resolved = resolveAttention(where, options);
  checkAttentionDevice(where, device, resolved, "state");
  const [step, merger] = await Promise.all([
    compileAttention(device, resolved, "state", ATTENTION, { WORKGROUP_SIZE }),
    createAttentionMerger(device, resolved),
  ]);
  const scratch = await allocate(device, { label: `${resolved.label} key splits`, byteLength: SPLIT_SCRATCH_BYTES });
  return new Stepper(device, resolved, step, merger, scratch);
}

class Stepper implements AttentionStepper {
  private isDestroyed = false;

  constructor(
    private readonly device: GPUDevice,
    private readonly resolved: ResolvedAttention,
    private readonly step: Kernel,
    private readonly merger: AttentionMerger,
    private readonly scratch: GPUBuffer,
  ) {}

  stateByteLength(batch: number, seqLen: number): number {
    expectInteger("stateByteLength", "batch", batch);
    expectInteger("stateByteLength", "seqLen", seqLen);
    return stateElements(this.resolved, batch, seqLen).total * 4;
  }

  encodeStep(target: CommandTarget, tensors: AttentionStepTensors): void {
    this.expectAlive("encodeStep");
    const { device, resolved } = this;
    const { batch, seqLen, kvLen, fields, bindings } = bindCall(device, "encodeStep", resolved, tensors);
    const total = stateElements(resolved, batch, seqLen).total;
    const splits = this.splitsFor(batch, seqLen, kvLen, total);
    const isSplit = splits > 1;
    const destination = isSplit ? this.scratch : tensors.state;
    const state = bindTensor(device, "encodeStep", tensors.state, {
      name: "state",
      shape: [total],
      bytesPerElement: 4,
    });
    const into = isSplit ? { binding: { buffer: this.scratch }, skip: 0 } : state;
    const at = stateFields(resolved, batch, seqLen, into.skip);
    Object.assign(fields, {
      ...{ oBatch: at.strides.batch, oToken: at.strides.token, oHead: at.strides.head, oSkip: at.skip },
      ...{ maxSkip: at.maxSkip, sumSkip: at.sumSkip, isFirst: isSplit || tensors.isFirst ? 1 : 0 },
      ...{ splits, splitKeys: Math.ceil(kvLen / splits), splitStride: total },
    });
    bindings[0] = uniforms(device, packFields(fields));
    bindings[6] = into.binding;
    const invocations = batch * resolved.kvHeads * seqLen * resolved.group * splits;
    dispatch(device, target, {
      kernel: this.step,
      bindings,
      workgroups: spreadWorkgroups(device, Math.ceil(invocations / WORKGROUP_SIZE)),
    });
    if (isSplit)
      this.merger.encodeMerge(target, {
        ...{ states: destination, parts: splits, partByteStride: total * 4, batch, seqLen },
        ...{ into: tensors.state, keepInto: !tensors.isFirst },
      });
  }

  encodeFinalize(target: CommandTarget, tensors: FinalizeTensors): void {
    this.expectAlive("encodeFinalize");
    this.merger.encodeFinalize(target, tensors);
  }

  encodeMerge(target: CommandTarget, tensors: MergeTensors): void {
    this.expectAlive("encodeMerge");
    this.merger.encodeMerge(target, tensors);
  }

  destroy(): void {
    if (this.isDestroyed) return;
    this.isDestroyed = true;
    release(this.scratch);
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  private splitsFor(batch: number, seqLen: number, kvLen: number, stateElementCount: number): number {
    const invocations = batch * seqLen * this.resolved.heads;
    const wanted = Math.floor(SPLIT_INVOCATIONS / invocations);
    const room = Math.floor(this.scratch.size / (stateElementCount * 4));
    return Math.max(1, Math.min(wanted, room, Math.floor(kvLen / SPLIT_MIN_KEYS)));
  }

  private expectAlive(where: string): void {
    if (this.isDestroyed) throw new DestroyedError(`${where}: this attention stepper was destroyed`);
  }
}
