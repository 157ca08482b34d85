/**
 * The KV cache of one run: every layer's keys and values, and attention over them. On a ring the cache is sharded over the
 * ranks and grows by pages; the single-rank kinds (vanilla, flash, blockwise) keep one buffer per layer, made for the whole
 * run at once, because their kernels take keys and values whole.
 */
import { allocateAll, type BufferView, release } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { MemoryLedger } from "../gpu/ledger.ts";
import { type Attention, createAttention } from "../kernels/attention.ts";
import type { AttentionKind, AttentionOptions } from "../kernels/attention-types.ts";
import { createTokenCopier, type TokenCopier } from "../kernels/copy-tokens.ts";
import { untilAborted } from "../ring/abort.ts";
import type { KvBlock } from "../ring/kv-block.ts";
import { createRingAttention } from "../ring/ring-attention.ts";
import type { RingAttention } from "../ring/ring-types.ts";
import type { RingStep } from "../ring/types.ts";
import type { ModelConfig } from "./config.ts";
import type { RingOptions } from "./types.ts";

/** Tokens of one chunk in one layer, in token order: positions `start` to `start + count - 1`. */
export interface ChunkTensors {
  start: number;
  count: number;
  /** f32 `[count, H, D]` */
  query: BufferView;
  /** f32 `[count, H, D]` */
  output: BufferView;
}

/** New keys and values of a chunk. */
export interface ChunkKeyValue {
  start: number;
  count: number;
  /** f32 `[count, K, D]` */
  key: BufferView;
  /** f32 `[count, K, D]` */
  value: BufferView;
}

/** Attention under way. */
export interface Attending {
  /** Its output is there for everything that is submitted from now on. */
  submitted: Promise<void>;
  /** The ring's steps, when they are done. */
  steps: Promise<RingStep[]>;
}

/** The cache of one run. What it is given must have been submitted, except in `encodeStep`. */
export interface KvCache {
  /** A decode step can be encoded without waiting: everything lives in GPU memory. */
  readonly canEncodeStep: boolean;
  /** Room for tokens `start` to `start + count - 1` in every layer. */
  reserve(start: number, count: number): Promise<void>;
  /** Keeps a chunk's keys and values. */
  append(layer: number, tensors: ChunkKeyValue, signal: AbortSignal): Promise<void>;
  /** {@link append}, encoded only. Needs {@link reserve}d room, and `canEncodeStep`. */
  encodeAppend(target: CommandTarget, layer: number, tensors: ChunkKeyValue): void;
  /** Attention of a chunk's queries over everything kept. */
  attend(layer: number, tensors: ChunkTensors, signal: AbortSignal): Attending;
  /** Attention of one decode token's query, where {@link encodeStep} cannot be; resolves when it is submitted. */
  decode(layer: number, tensors: ChunkTensors, signal: AbortSignal): Promise<void>;
  /** One decode token: keeps its key and value and attends, encoded only. Needs {@link reserve}d room. */
  encodeStep(target: CommandTarget, layer: number, tensors: ChunkTensors & ChunkKeyValue): void;
  /** Tokens that each rank keeps. */
  kvTokens(): number[];
  /** Gives all memory back. Doing it twice does no harm. */
  release(): void;
}

/** Compiled attention for a model's layers: one variant for full and one for sliding layers. */
export interface LayerAttention {
  readonly ring: Readonly<Required<RingOptions>>;
  /** Bytes of the model's ranks, by number. */
  readonly ledger: MemoryLedger;
  /** A cache for one run of at most `maxTokens` tokens. */
  createCache(maxTokens: number): Promise<KvCache>;
  destroy(): void;
}

/** What attention needs to know of the model, per window (undefined: sees everything before it). */
function attentionOptions(config: ModelConfig, window: number | undefined): AttentionOptions {
  const { heads, kvHeads, headDim } = config;
  return { heads, kvHeads, headDim, isCausal: true, ...(window === undefined ? {} : { window }) };
}

/** The window of each layer. */
const windowsOf = (config: ModelConfig): (number | undefined)[] =>
  config.layerTypes.map((type) => (type === "sliding_attention" ? config.slidingWindow : undefined));

/** Makes one thing per distinct window and hands each layer its own; what was made before a failure is destroyed. */
export async function perLayer<T extends { destroy(): void }>(
  config: ModelConfig,
  create: (options: AttentionOptions) => Promise<T>,
): Promise<{ layers: T[]; destroy(): void }> {
  const windows = windowsOf(config);
  const made = new Map<number | undefined, T>();
  const destroy = () => {
    for (const one of made.values()) one.destroy();
  };
  try {
    for (const window of new Set(windows)) made.set(window, await create(attentionOptions(config, window)));
  } catch (error) {
    destroy();
    throw error;
  }
  return { layers: windows.map((window) => made.get(window)!), destroy };
}

/** Attention as the ring options ask for it. @throws {ShapeError | OptionError | ShaderCompileError} */
export async function createLayerAttention(
  device: GPUDevice,
  config: ModelConfig,
  ring: Readonly<Required<RingOptions>>,
): Promise<LayerAttention> {
  if (ring.attention !== "ring") return createSingle(device, config, ring, ring.attention);
  const { worldSize, layout, blockMemory } = ring;
  const ledger = new MemoryLedger();
  const { layers, destroy } = await perLayer(config, (options) =>
    createRingAttention(device, { ...options, worldSize, layout, blockMemory, ledger }),
  );
  return { ring, ledger, createCache: async (maxTokens) => new RingCache(layers, maxTokens), destroy };
}

/** The cache on a ring. */
class RingCache implements KvCache {
  readonly canEncodeStep: boolean;
  private readonly blocks: KvBlock[][];

  constructor(
    private readonly rings: readonly RingAttention[],
    maxTokens: number,
  ) {
    this.canEncodeStep = rings.every((ring) => ring.blockMemory === "gpu");
    // Of several ranks each holds its share, and which tokens that are depends on how the prompt is cut.
    this.blocks = rings.map((ring, layer) =>
      ring.createBlocks(`layer ${layer}`, ring.worldSize === 1 ? maxTokens : undefined),
    );
  }

  async reserve(start: number, count: number): Promise<void> {
    // All layers at once: each allocation is answered by the GPU process. After a failure the rest is waited for, so that
    // nothing arrives in blocks that are released already.
    const rooms = this.rings.map((ring, layer) => ring.reserve(this.blocks[layer]!, { start, count }));
    await Promise.allSettled(rooms);
    await Promise.all(rooms);
  }

  append(layer: number, tensors: ChunkKeyValue, signal: AbortSignal): Promise<void> {
    return this.rings[layer]!.append(this.blocks[layer]!, tensors, { signal });
  }

  encodeAppend(target: CommandTarget, layer: number, tensors: ChunkKeyValue): void {
    this.rings[layer]!.encodeAppend(target, this.blocks[layer]!, tensors);
  }

  attend(layer: number, tensors: ChunkTensors, signal: AbortSignal): Attending {
    const ring = this.rings[layer]!;
    const blocks = this.blocks[layer]!;
    let onSubmitted: (() => void) | undefined;
    const early = new Promise<void>((resolve) => (onSubmitted = resolve));
    const collect = async () => {
      const steps: RingStep[] = [];
      // Pages that come from the host share staging memory: there, one pass at a time.
      const options = this.canEncodeStep ? { signal, onSubmitted } : { signal };
      for await (const step of ring.attend({ ...tensors, blocks }, options)) steps.push(step);
      return steps;
    };
    const steps = collect();
    return { submitted: Promise.race([early, steps.then(() => {})]), steps };
  }

  decode(layer: number, tensors: ChunkTensors, signal: AbortSignal): Promise<void> {
    return this.rings[layer]!.decode({ ...tensors, blocks: this.blocks[layer]! }, { signal });
  }

  encodeStep(target: CommandTarget, layer: number, tensors: ChunkTensors & ChunkKeyValue): void {
    const ring = this.rings[layer]!;
    const blocks = this.blocks[layer]!;
    ring.encodeAppend(target, blocks, tensors);
    ring.encodeDecode(target, { ...tensors, blocks });
  }

  kvTokens(): number[] {
    // Sliding layers let go of pages behind their window, so the fullest layer tells.
    return this.blocks[0]!.map((_, rank) => Math.max(...this.blocks.map((layer) => layer[rank]!.tokenCount)));
  }

  release(): void {
    for (const blocks of this.blocks) for (const block of blocks) block.release();
  }
}

async function createSingle(
  device: GPUDevice,
  config: ModelConfig,
  ring: Readonly<Required<RingOptions>>,
  kind: AttentionKind,
): Promise<LayerAttention> {
  const { layers, destroy } = await perLayer(config, (options) => createAttention(device, { ...options, kind }));
  const copier = await createTokenCopier(device, "f32");
  const rowWidth = config.kvHeads * config.headDim;
  const ledger = new MemoryLedger();
  return {
    ring,
    ledger,
    destroy,
    async createCache(maxTokens) {
      const byteLength = maxTokens * rowWidth * 4;
      const buffers = await allocateAll(
        device,
        layers.flatMap((_, layer) =>
          ["keys", "values"].map((name) => ({ label: `layer ${layer} ${name}`, byteLength, owner: 0, ledger })),
        ),
      );
      return new SingleCache(device, layers, buffers, copier, rowWidth);
    },
  };
}

/** The cache of one rank, whole. */
class SingleCache implements KvCache {
  readonly canEncodeStep = true;
  private tokenCount = 0;

  constructor(
    private readonly device: GPUDevice,
    private readonly layers: readonly Attention[],
    /** key, value of layer 0, of layer 1, ... */
    private readonly buffers: readonly GPUBuffer[],
    private readonly copier: TokenCopier,
    /** Elements of one token's keys. */
    private readonly rowWidth: number,
  ) {}

  async reserve(): Promise<void> {}

  async append(layer: number, tensors: ChunkKeyValue, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const encoder = this.device.createCommandEncoder({ label: "kv append" });
    this.encodeAppend(encoder, layer, tensors);
    this.device.queue.submit([encoder.finish()]);
  }

  attend(layer: number, tensors: ChunkTensors, signal: AbortSignal): Attending {
    signal.throwIfAborted();
    const startMs = performance.now();
    const encoder = this.device.createCommandEncoder({ label: "attention" });
    this.encodeAttention(encoder, layer, tensors);
    this.device.queue.submit([encoder.finish()]);
    const { start, count } = tensors;
    const step = { step: 0, rank: 0, kvRank: 0, isSkipped: false, queryTokens: count, kvTokens: start + count };
    const steps = untilAborted(this.device.queue.onSubmittedWorkDone(), signal).then(() => [
      { ...step, computeMs: performance.now() - startMs, transferMs: 0, waitMs: 0, startMs },
    ]);
    return { submitted: Promise.resolve(), steps };
  }

  async decode(layer: number, tensors: ChunkTensors, signal: AbortSignal): Promise<void> {
    await this.attend(layer, tensors, signal).steps;
  }

  encodeStep(target: CommandTarget, layer: number, tensors: ChunkTensors & ChunkKeyValue): void {
    this.encodeAppend(target, layer, tensors);
    this.encodeAttention(target, layer, tensors);
  }

  kvTokens(): number[] {
    return [this.tokenCount];
  }

  release(): void {
    for (const buffer of this.buffers) release(buffer);
  }

  encodeAppend(target: CommandTarget, layer: number, { start, count, key, value }: ChunkKeyValue): void {
    const { rowWidth: width } = this;
    for (const [index, source] of [key, value].entries())
      this.copier.encode(target, {
        source,
        sourceStrides: { outer: 0, token: width },
        target: { buffer: this.buffers[2 * layer + index]!, byteOffset: start * width * 4 },
        targetStrides: { outer: 0, token: width },
        tokens: count,
        width,
      });
    this.tokenCount = start + count;
  }

  private encodeAttention(target: CommandTarget, layer: number, { start, count, query, output }: ChunkTensors): void {
    this.layers[layer]!.encode(target, {
      query,
      output,
      key: this.buffers[2 * layer]!,
      value: this.buffers[2 * layer + 1]!,
      batch: 1,
      seqLen: count,
      kvSeqLen: start + count,
      queryPositions: { start },
    });
  }
}
