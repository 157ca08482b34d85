/**
 * The pieces of which attention over many K/V blocks is made: a step (queries meet one block, the state is updated), and
 * finalize and merge. Few query rows (decode) are split over keys, so that the whole device has work.
 */
import { DestroyedError, OptionError } from "../errors.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { expectInteger } from "../shape.ts";
import { describeCall } from "./attention-call.ts";
import { AttentionEngine } from "./attention-engine.ts";
import { type FinalizeTensors, type MergeTensors, stateElements } from "./attention-merge.ts";
import { checkAttentionDevice, resolveAttention } from "./attention-options.ts";
import { bindTensor, stridesOf } from "./attention-params.ts";
import { cutCall } from "./attention-pieces.ts";
import type { AttentionOptions, AttentionStepTensors } from "./attention-types.ts";
import type { AttentionChoice } from "./tiles.ts";
import { applyTune } from "./tune.ts";

/** Attention in steps. All `encode*` are synchronous, take no GPU memory and submit nothing. */
export interface AttentionStepper {
  /** Which kernels run, and why. */
  readonly choice: AttentionChoice;
  /** Bytes of one state: acc `[B, T, H, E]` (or by layout), rowMax `[B, H, T]` (base 2), rowSum `[B, H, T]`, all f32. */
  stateByteLength(batch: number, seqLen: number): number;
  /** The queries meet one K/V block; the state is updated. Blocks may come in any order, each once. */
  encodeStep(target: CommandTarget, tensors: AttentionStepTensors): void;
  /** State -> output and lse. The state is left as it is. */
  encodeFinalize(target: CommandTarget, tensors: FinalizeTensors): void;
  /** Several states -> output and lse, or one state. */
  encodeMerge(target: CommandTarget, tensors: MergeTensors): void;
  /** Gives back the scratch. Idempotent. */
  destroy(): void;
  /** Same as `destroy()`. */
  [Symbol.dispose](): void;
}

/** What only tests and special callers set. */
export interface AttentionStepperLimits {
  /** Bytes of one binding of key or value; larger blocks are cut. Default: the device's maxStorageBufferBindingSize. */
  maxBindingByteLength?: number;
}

/**
 * Compiles the step, finalize and merge kernels for one set of options.
 * @throws {OptionError} for a bad option.
 * @throws {UnsupportedDeviceError} where the device lacks what the options need, or (with `tune`) computes no kernel right.
 * @throws the reason of `tune.signal` when aborted.
 */
export async function createAttentionStepper(
  device: GPUDevice,
  options: AttentionOptions,
  limits: AttentionStepperLimits = {},
): Promise<AttentionStepper> {
  const where = "createAttentionStepper";
  const resolved = resolveAttention(where, options);
  checkAttentionDevice(where, device, resolved, "state");
  await applyTune(device, resolved, options.tune);
  const engine = await AttentionEngine.create(device, resolved, { scratchTokens: 0, hasOneShot: false });
  return new Stepper(engine, limits.maxBindingByteLength ?? device.limits.maxStorageBufferBindingSize);
}

class Stepper implements AttentionStepper {
  private isDestroyed = false;

  constructor(
    private readonly engine: AttentionEngine,
    private readonly bindingBytes: number,
  ) {}

  get choice(): AttentionChoice {
    return this.engine.told;
  }

  stateByteLength(batch: number, seqLen: number): number {
    expectInteger("stateByteLength", "batch", batch);
    expectInteger("stateByteLength", "seqLen", seqLen);
    return stateElements(this.engine.resolved, batch, seqLen).total * 4;
  }

  encodeStep(target: CommandTarget, tensors: AttentionStepTensors): void {
    this.expectAlive("encodeStep");
    const { engine } = this;
    const { device, resolved } = engine;
    const { state: stateSource, isFirst, ...rest } = tensors;
    const call = describeCall(device, "encodeStep", resolved, { ...rest, sinks: undefined });
    const sizes = stateElements(resolved, call.batch, call.seqLen);
    const state = bindTensor(device, "encodeStep", stateSource, {
      ...{ name: "state", shape: [sizes.total], bytesPerElement: 4 },
    });
    const { heads, kvHeads, valueDim, layout, group } = resolved;
    const strides = stridesOf(layout, call.seqLen, heads, valueDim);
    const pieces = cutCall(call, kvHeads, { bindingBytes: this.bindingBytes });
    if (pieces[0]!.blocks[0]!.seqLen < call.seqLen)
      throw new OptionError(
        `encodeStep: a query of ${call.seqLen} tokens exceeds one binding of ${this.bindingBytes} bytes; give fewer tokens at once`,
      );
    for (const { blocks } of pieces)
      for (const [index, piece] of blocks.entries()) {
        const row = (piece.batchStart * heads + piece.headStart * group) * call.seqLen;
        const place = {
          binding: state.binding,
          oSkip: state.skip + piece.batchStart * strides.batch + piece.headStart * group * strides.head,
          maxSkip: state.skip + sizes.maxSkip + row,
          sumSkip: state.skip + sizes.sumSkip + row,
        };
        const keeps = !isFirst || index > 0;
        const splits = pieces.length > 1 ? 1 : engine.splitsFor(piece);
        if (splits < 2) {
          engine.encodeStep(target, call, piece, place, !keeps);
          continue;
        }
        engine.encodeParts(target, call, piece, splits);
        const { batch, seqLen } = piece;
        const states = { binding: { buffer: engine.scratch }, skip: 0 };
        const from = { states, parts: splits, partStride: sizes.total, batch, seqLen, kvHeads };
        engine.merger.encodeState(target, from, place, keeps);
      }
  }

  encodeFinalize(target: CommandTarget, tensors: FinalizeTensors): void {
    this.expectAlive("encodeFinalize");
    this.engine.merger.encodeFinalize(target, tensors);
  }

  encodeMerge(target: CommandTarget, tensors: MergeTensors): void {
    this.expectAlive("encodeMerge");
    this.engine.merger.encodeMerge(target, tensors);
  }

  destroy(): void {
    if (this.isDestroyed) return;
    this.isDestroyed = true;
    this.engine.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  private expectAlive(where: string): void {
    if (this.isDestroyed) throw new DestroyedError(`${where}: this attention stepper was destroyed`);
  }
}
