/**
 * The compiled kernels of one set of options, and how a piece of a call becomes dispatches: in one shot, as a step of a
 * state, or (few query rows) split over keys and merged.
 */
import { allocate, release } from "../gpu/buffers.ts";
import { describeAdapter } from "../gpu/device.ts";
import { type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel, type Kernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { type AttentionCall, type AttentionPiece, bindOutput, bindPiece } from "./attention-call.ts";
import { type AttentionMerger, createAttentionMerger, type StatePlace, stateElements } from "./attention-merge.ts";
import {
  type AttentionTarget,
  attentionBindings,
  attentionKnobs,
  attentionLib,
  type ResolvedAttention,
  storageBindings,
} from "./attention-options.ts";
import { type AttentionFields, packFields, stridesOf } from "./attention-params.ts";
import { ATTENTION_CANDIDATES, type AttentionWork } from "./candidates.ts";
import {
  type AttentionChoice,
  type AttentionKernelChoice,
  chooseKernel,
  deviceFacts,
  type KernelChoice,
  kernelOf,
  runnable,
  safeChoice,
} from "./tiles.ts";

/** Options of an engine that are not part of the attention itself. */
export interface EngineOptions {
  /** Query tokens whose state the scratch must hold at least. */
  scratchTokens: number;
  /** Whether one-shot kernels are compiled too. */
  hasOneShot: boolean;
  /**
   * What the tuner measures: only the kernels that this work needs in one shot are compiled, with this choice instead of
   * the device's. Of such an engine only `encodeOneShot` (many rows) or `encodeSplit` (few rows) may be called.
   */
  trial?: { work: AttentionWork; choice: AttentionKernelChoice };
}

/** The kernels that an engine chose, and why. */
export interface EngineChoice {
  manyRows: AttentionKernelChoice;
  fewRows: AttentionKernelChoice;
}

/** See the file's head. */
export class AttentionEngine {
  private constructor(
    readonly device: GPUDevice,
    readonly resolved: ResolvedAttention,
    readonly choice: EngineChoice,
    /** Undefined in a trial, as the kernels of the work that it is not about. */
    private readonly step: Kernel | undefined,
    private readonly oneShot: Kernel | undefined,
    /** For calls with few query rows; its target is always a state. */
    private readonly fewRows: Kernel | undefined,
    /** Its stand-in, where it reads inputs itself: for pieces that it cannot read, or that have many times its rows. */
    private readonly anyRows: { kernel: Kernel; choice: AttentionKernelChoice } | undefined,
    readonly merger: AttentionMerger,
    /** States of key splits, or of the query piece at hand. */
    readonly scratch: GPUBuffer,
    private readonly isCpu: boolean,
  ) {}

  /** Compiles the kernels and takes the scratch. @throws {ShaderCompileError | GpuMemoryError} */
  static async create(
    device: GPUDevice,
    resolved: ResolvedAttention,
    options: EngineOptions,
  ): Promise<AttentionEngine> {
    const { isCpu } = describeAdapter(device);
    const rowBytes = stateElements(resolved, 1, 1).total * 4;
    const { trial } = options;
    const choose = (work: AttentionWork) =>
      trial?.work === work ? trial.choice : chooseKernel(device, resolved, work);
    const choice: EngineChoice = { manyRows: choose("many-rows"), fewRows: choose("few-rows") };
    const compile = (target: AttentionTarget, work: AttentionWork) =>
      compileAttention(device, resolved, target, work === "many-rows" ? choice.manyRows : choice.fewRows);
    const canOneShot = storageBindings(resolved, "output") <= device.limits.maxStorageBuffersPerShaderStage;
    const standIn = trial || !choice.fewRows.readsItself ? undefined : standInFor(device, resolved);
    const [step, oneShot, fewRows, anyRows, merger] = await Promise.all([
      trial ? undefined : compile("state", "many-rows"),
      options.hasOneShot && canOneShot && trial?.work !== "few-rows" ? compile("output", "many-rows") : undefined,
      trial?.work === "many-rows" ? undefined : compile("state", "few-rows"),
      standIn && compileAttention(device, resolved, "state", standIn),
      createAttentionMerger(device, resolved),
    ]);
    const scratch = await allocate(device, {
      label: `${resolved.label} scratch`,
      byteLength: Math.max(splitStates(isCpu, resolved.kvHeads), options.scratchTokens) * rowBytes,
    });
    const other = standIn && { kernel: anyRows!, choice: standIn };
    return new AttentionEngine(device, resolved, choice, step, oneShot, fewRows, other, merger, scratch, isCpu);
  }

  /** The choice without what only the engine needs. */
  get told(): AttentionChoice {
    const { manyRows, fewRows } = this.choice;
    const told = ({ id, basis, why }: AttentionKernelChoice): KernelChoice => ({ id, basis, why });
    return { manyRows: told(manyRows), fewRows: told(fewRows) };
  }

  /** Whether a piece can go without a state. */
  get hasOneShot(): boolean {
    return this.oneShot !== undefined;
  }

  /** Query tokens (of one batch entry) whose state fits the scratch. */
  get scratchTokens(): number {
    return Math.floor(this.scratch.size / 4 / stateElements(this.resolved, 1, 1).total);
  }

  /**
   * Into how many parts a piece's keys are split so that the device has enough to do; 0 where not even one pays, or the
   * scratch does not hold its state.
   */
  splitsFor(piece: AttentionPiece): number {
    const { rows } = this.fewFor(piece).choice;
    const units = piece.batch * piece.kvHeads * Math.ceil((piece.seqLen * this.resolved.group) / rows);
    const wanted = Math.max(1, Math.floor(splitUnits(this.isCpu) / units));
    const room = Math.floor(this.scratch.size / 4 / stateElements(this.resolved, piece.batch, piece.seqLen).total);
    return Math.min(wanted, room, Math.floor(piece.kvLen / SPLIT_MIN_KEYS));
  }

  /** Output and lse of a piece that meets all of its keys at once, without a state. */
  encodeOneShot(target: CommandTarget, call: AttentionCall, piece: AttentionPiece): void {
    const { fields, bindings } = bindPiece(this.device, this.resolved, call, piece);
    const to = bindOutput(this.device, call, piece);
    bindings[4] = to.output;
    bindings[5] = to.lse;
    bindings[0] = uniforms(this.device, packFields({ ...fields, ...to.fields }));
    // The sinks' binding is the last, and only this target has it.
    this.launch(target, this.oneShot!, this.choice.manyRows, bindings, piece, 1);
  }

  /** Output and lse of a piece of few rows: its keys are split, and the parts' states merged. */
  encodeSplit(target: CommandTarget, call: AttentionCall, piece: AttentionPiece, splits: number): void {
    this.encodeParts(target, call, piece, splits);
    this.encodeScratchOutput(target, call, piece, splits);
  }

  /** A piece's queries meet its keys; `place` is the state of exactly these queries, or of all queries of the call. */
  encodeStep(
    target: CommandTarget,
    call: AttentionCall,
    piece: AttentionPiece,
    place: StatePlace,
    isFirst: boolean,
  ): void {
    const { fields, bindings } = bindPiece(this.device, this.resolved, call, piece);
    bindings[6] = place.binding;
    bindings[13] = null;
    const { heads, valueDim, layout } = this.resolved;
    const strides = stridesOf(layout, piece.seqLen, heads, valueDim);
    bindings[0] = uniforms(
      this.device,
      packFields({
        ...fields,
        ...{ oBatch: strides.batch, oToken: strides.token, oHead: strides.head, oSkip: place.oSkip },
        ...{ maxSkip: place.maxSkip, sumSkip: place.sumSkip, isFirst: isFirst ? 1 : 0 },
      }),
    );
    if (piece.seqLen * this.resolved.group < FEW_ROWS_BELOW) this.launchFew(target, bindings, fields, piece, 1);
    else this.launch(target, this.step!, this.choice.manyRows, bindings, piece, 1);
  }

  /** Each split's state of a piece, one after the other in the scratch. */
  encodeParts(target: CommandTarget, call: AttentionCall, piece: AttentionPiece, splits: number): void {
    const { fields, bindings } = bindPiece(this.device, this.resolved, call, piece);
    const { total, maxSkip, sumSkip } = stateElements(this.resolved, piece.batch, piece.seqLen);
    const { heads, valueDim, layout } = this.resolved;
    const strides = stridesOf(layout, piece.seqLen, heads, valueDim);
    bindings[6] = { buffer: this.scratch };
    bindings[13] = null;
    bindings[0] = uniforms(
      this.device,
      packFields({
        ...fields,
        ...{ oBatch: strides.batch, oToken: strides.token, oHead: strides.head, oSkip: 0, maxSkip, sumSkip },
        ...{ isFirst: 1, splits, splitKeys: Math.ceil(piece.kvLen / splits), splitStride: total },
      }),
    );
    this.launchFew(target, bindings, fields, piece, splits);
  }

  /** The scratch's states become a piece's output and lse. */
  encodeScratchOutput(target: CommandTarget, call: AttentionCall, piece: AttentionPiece, parts: number): void {
    const to = bindOutput(this.device, call, piece);
    const sinkSkip = (call.fields.sinkSkip ?? 0) + piece.headStart * this.resolved.group;
    const { batch, seqLen, kvHeads } = piece;
    const partStride = stateElements(this.resolved, batch, seqLen).total;
    this.merger.encodeOutput(
      target,
      { states: { binding: { buffer: this.scratch }, skip: 0 }, parts, partStride, batch, seqLen, kvHeads },
      { ...to, sinks: call.extras[6] ?? null, fields: { ...to.fields, sinkSkip } },
    );
  }

  destroy(): void {
    release(this.scratch);
  }

  /** The kernel for a piece of few rows. */
  private fewFor(piece: AttentionPiece): { kernel: Kernel; choice: AttentionKernelChoice } {
    const { fewRows: choice } = this.choice;
    const tiles = Math.ceil((piece.seqLen * this.resolved.group) / choice.rows);
    const isSlow = this.anyRows && choice.rows < this.anyRows.choice.rows && tiles > MOST_TILES;
    return isSlow ? this.anyRows! : { kernel: this.fewRows!, choice };
  }

  private launchFew(
    target: CommandTarget,
    bindings: (GPUBuffer | GPUBufferBinding | null)[],
    { kSkip = 0, vSkip = 0 }: AttentionFields,
    piece: AttentionPiece,
    splits: number,
  ): void {
    const { headDim, valueDim } = this.resolved;
    const few = this.fewFor(piece);
    // It reads keys and values by quarters of rows.
    const isReadable = (4 * kSkip) % headDim === 0 && (4 * vSkip) % valueDim === 0;
    const { kernel, choice } = few.choice.readsItself && !isReadable && this.anyRows ? this.anyRows : few;
    this.launch(target, kernel, choice, bindings, piece, splits);
  }

  private launch(
    target: CommandTarget,
    kernel: Kernel,
    choice: AttentionKernelChoice,
    bindings: (GPUBuffer | GPUBufferBinding | null)[],
    piece: AttentionPiece,
    splits: number,
  ): void {
    const together = choice.quads ? 4 : 1;
    const tiles = together * Math.ceil((piece.seqLen * this.resolved.group) / choice.rows / together);
    const units = piece.batch * piece.kvHeads * tiles * splits;
    const workgroups = spreadWorkgroups(this.device, Math.ceil(units / choice.unitsPerWorkgroup));
    dispatch(this.device, target, { kernel, bindings, workgroups });
  }
}

/** Below so many rows per K/V head a call counts as one of few rows. */
export const FEW_ROWS_BELOW = 16;
/** The kernel that takes its rows one K/V head at a time is run for so many tiles of rows: each reads the keys again. */
const MOST_TILES = 2;
/** A split over keys aims at so many units (invocations, or quads) and goes no finer than so many keys. */
const SPLIT_UNITS_CPU = 64;
const SPLIT_UNITS_GPU = 8192;
const SPLIT_MIN_KEYS = 64;
/** States of one query token that the scratch holds at least: a batch of so many is decoded without prefill's kernel. */
const MIN_SPLIT_STATES = 16;
/** States of one query token that the scratch holds at most for splits. */
const SPLIT_STATES = 64;

const splitUnits = (isCpu: boolean): number => (isCpu ? SPLIT_UNITS_CPU : SPLIT_UNITS_GPU);

/** States of one query token that the scratch holds for splits: twice what one token wants, for there may be a few. */
const splitStates = (isCpu: boolean, kvHeads: number): number =>
  Math.min(SPLIT_STATES, Math.max(MIN_SPLIT_STATES, 2 * Math.ceil(splitUnits(isCpu) / kvHeads)));

/** What runs few rows of any number and anywhere in memory, in place of a kernel that reads inputs itself. */
function standInFor(device: GPUDevice, resolved: ResolvedAttention): AttentionKernelChoice {
  const facts = deviceFacts(device);
  const can = runnable(ATTENTION_CANDIDATES, facts, resolved, "few-rows").filter(({ readsItself }) => !readsItself);
  return kernelOf(safeChoice(can, facts, resolved)!, "safe", "stands in where few rows cannot be read by quarters");
}

/** The WGSL of one attention kernel for a target. */
export function attentionSource(
  resolved: ResolvedAttention,
  target: AttentionTarget,
  { source, knobs, quads, readsItself }: AttentionKernelChoice,
): string {
  const lib = [...attentionLib(resolved, target, { quads, readsItself }), ...(source.lib ?? [])];
  return specialize({ ...source, lib }, { ...attentionKnobs(resolved), ...knobs });
}

/** Compiles one attention kernel for a target. */
export function compileAttention(
  device: GPUDevice,
  resolved: ResolvedAttention,
  target: AttentionTarget,
  choice: AttentionKernelChoice,
): Promise<Kernel> {
  return getKernel(device, {
    label: `${choice.source.file} ${resolved.label} ${target}`,
    source: attentionSource(resolved, target, choice),
    bindings: attentionBindings(resolved, target),
  });
}
