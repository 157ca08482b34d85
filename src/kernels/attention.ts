/** Attention on one device, with one option for how it is computed: vanilla, flash or blockwise. */
import { DestroyedError, OptionError } from "../errors.ts";
import { describeAdapter } from "../gpu/device.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { expectInteger } from "../shape.ts";
import { type AttentionCall, describeCall } from "./attention-call.ts";
import { AttentionEngine, FEW_ROWS_BELOW } from "./attention-engine.ts";
import { stateElements } from "./attention-merge.ts";
import { checkAttentionDevice, type ResolvedAttention, resolveAttention } from "./attention-options.ts";
import { encodePresent } from "./attention-past.ts";
import { cutCall, type PieceLimits, type QueryPiece } from "./attention-pieces.ts";
import type { AttentionOptions, AttentionTensors } from "./attention-types.ts";
import { createVanilla, type VanillaAttention } from "./attention-vanilla.ts";
import { createTokenCopier, type TokenCopier } from "./copy-tokens.ts";
import type { AttentionChoice } from "./tiles.ts";
import { applyTune } from "./tune.ts";

/** One attention operator, compiled. */
export interface Attention {
  /**
   * Encodes one call: Q, K, V on the GPU -> output, and lse where a buffer for it is given. Nothing is submitted, nothing
   * allocated: scratch is taken once at creation, and longer calls are cut into pieces that fit it.
   * @throws {ShapeError} naming the tensor, what was expected and what came.
   * @throws {OptionError} for a size or position out of range.
   * @throws {DestroyedError} after `destroy()`.
   */
  encode(target: CommandTarget, tensors: AttentionTensors): void;
  /** Which kernels run, and why; undefined with kind "vanilla", which has one only. */
  readonly choice: AttentionChoice | undefined;
  /** Gives back the scratch. Idempotent; buffers of the caller are left alone. */
  destroy(): void;
  /** Same as `destroy()`. */
  [Symbol.dispose](): void;
}

/** How large scratch and bindings may be; the defaults suit the device. */
export interface AttentionLimits {
  /** Bytes of one binding; larger tensors are cut. Default: the device's maxStorageBufferBindingSize. */
  maxBindingByteLength?: number;
  /** Bytes of scores that kind "vanilla" holds at once. Default 64 MiB. */
  scoreByteLength?: number;
}

/** Query tokens whose state the scratch holds: the size of a query piece of kind "blockwise". */
const SCRATCH_TOKENS_CPU = 256;
const SCRATCH_TOKENS_GPU = 4096;
/** So few query tokens are decode, however many query heads share a K/V head: their keys are split. */
const DECODE_TOKENS = 4;
const DEFAULT_SCORE_BYTES = 64 * 2 ** 20;

/**
 * Compiles attention for one set of options: softmax(Q K^T * scale + mask) V.
 *
 * Query `[B, T, H, D]`, key `[B, S, K, D]`, value `[B, S, K, E]` -> output `[B, T, H, E]` and lse `[B, H, T]` (natural log);
 * with layout "bhtd" heads come before tokens. The online softmax in base 2 is that of FlashAttention (arXiv 2205.14135),
 * the blockwise order that of Blockwise Parallel Transformer (arXiv 2305.19370).
 * @throws {OptionError} for a bad option, or kind "ring", which is `createRingAttention`'s.
 * @throws {UnsupportedDeviceError} where the device lacks what the options need, or (with `tune`) computes no kernel right.
 * @throws the reason of `tune.signal` when aborted.
 */
export async function createAttention(
  device: GPUDevice,
  options: AttentionOptions,
  limits: AttentionLimits = {},
): Promise<Attention> {
  const where = "createAttention";
  const resolved = resolveAttention(where, options);
  if (resolved.kind === "ring")
    throw new OptionError(`${where}: kind "ring" shards K/V over ranks; use createRingAttention(device, options)`);
  checkAttentionDevice(where, device, resolved, "state");
  const bindingBytes = limits.maxBindingByteLength ?? device.limits.maxStorageBufferBindingSize;
  const copier = createTokenCopier(device, resolved.dtype, bindingBytes);
  if (resolved.kind === "vanilla") {
    const scoreBytes = Math.min(
      limits.scoreByteLength ?? DEFAULT_SCORE_BYTES,
      bindingBytes,
      device.limits.maxBufferSize,
    );
    return new SingleAttention(resolved, await createVanilla(device, resolved, scoreBytes), await copier, bindingBytes);
  }
  await applyTune(device, resolved, options.tune);
  const isBlockwise = resolved.kind === "blockwise";
  const tokens = describeAdapter(device).isCpu ? SCRATCH_TOKENS_CPU : SCRATCH_TOKENS_GPU;
  const engine = await AttentionEngine.create(device, resolved, {
    scratchTokens: isBlockwise ? tokens : 0,
    hasOneShot: !isBlockwise,
  });
  return new SingleAttention(resolved, engine, await copier, bindingBytes);
}

class SingleAttention implements Attention {
  private isDestroyed = false;

  constructor(
    private readonly resolved: ResolvedAttention,
    private readonly engine: AttentionEngine | VanillaAttention,
    private readonly copier: TokenCopier,
    private readonly bindingBytes: number,
  ) {}

  get choice(): AttentionChoice | undefined {
    return this.engine instanceof AttentionEngine ? this.engine.told : undefined;
  }

  encode(target: CommandTarget, tensors: AttentionTensors): void {
    if (this.isDestroyed) throw new DestroyedError("Attention.encode: this attention was destroyed");
    const { engine } = this;
    const call = this.describe(target, tensors);
    const cut = (limits: Omit<PieceLimits, "bindingBytes"> = {}) =>
      cutCall(call, this.resolved.kvHeads, { bindingBytes: this.bindingBytes, ...limits });
    if (!(engine instanceof AttentionEngine)) {
      for (const { blocks } of cut(engine.limitsFor(call))) engine.encode(target, call, blocks);
      return;
    }
    const kvLen = this.resolved.kind === "blockwise" ? this.resolved.blockSize : undefined;
    const pieces = cut({ kvLen });
    const [first] = pieces;
    if (pieces.length === 1 && first!.blocks.length === 1 && this.encodeSplit(engine, target, call, first!)) return;
    if (engine.hasOneShot && first!.blocks.length === 1) {
      for (const { blocks } of pieces) engine.encodeOneShot(target, call, blocks[0]!);
      return;
    }
    for (const piece of cut({ kvLen, seqLen: engine.scratchTokens })) this.encodeBlocks(engine, target, call, piece);
  }

  destroy(): void {
    if (this.isDestroyed) return;
    this.isDestroyed = true;
    this.engine.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  /** Checks the call; with a past, first writes past and new keys and values to present, which the call then reads. */
  private describe(target: CommandTarget, tensors: AttentionTensors): AttentionCall {
    const { device } = this.engine;
    const { past, ...rest } = tensors;
    if (!past) return describeCall(device, "Attention.encode", this.resolved, rest);
    const pastLen = expectInteger("Attention.encode", "past.seqLen", past.seqLen);
    expectInteger("Attention.encode", "kvSeqLen", tensors.kvSeqLen);
    const present = {
      ...rest,
      key: past.presentKey,
      value: past.presentValue,
      kvSeqLen: pastLen + tensors.kvSeqLen,
      queryPositions: rest.queryPositions ?? { start: pastLen },
    };
    const call = describeCall(device, "Attention.encode", this.resolved, present, past.layout ?? this.resolved.layout);
    encodePresent(this.copier, this.resolved, target, tensors);
    return call;
  }

  /** Few rows: the keys are split, and the kernel is one for few rows. False where that does not pay. */
  private encodeSplit(
    engine: AttentionEngine,
    target: CommandTarget,
    call: AttentionCall,
    { blocks }: QueryPiece,
  ): boolean {
    const piece = blocks[0]!;
    const isFew = piece.seqLen * this.resolved.group < FEW_ROWS_BELOW;
    if (piece.seqLen > DECODE_TOKENS && !isFew) return false;
    const splits = engine.splitsFor(piece);
    if (splits < (isFew ? 1 : 2)) return false;
    engine.encodeSplit(target, call, piece, splits);
    return true;
  }

  /** One run of queries meets its key blocks in turn, in the scratch's state, and is finalized. */
  private encodeBlocks(
    engine: AttentionEngine,
    target: CommandTarget,
    call: AttentionCall,
    { blocks }: QueryPiece,
  ): void {
    const { maxSkip, sumSkip } = stateElements(this.resolved, blocks[0]!.batch, blocks[0]!.seqLen);
    const place = { binding: { buffer: engine.scratch }, oSkip: 0, maxSkip, sumSkip };
    for (const [index, piece] of blocks.entries()) engine.encodeStep(target, call, piece, place, index === 0);
    engine.encodeScratchOutput(target, call, blocks[0]!, 1);
  }
}
