/**
 * Ring Attention (Liu, Zaharia, Abbeel, arXiv 2310.01889) with all ranks on one device. Every rank owns a shard of the
 * queries and a block of K/V. In each step its queries meet the block that is here, while the next one is on its way;
 * the state (acc, rowMax, rowSum) goes from step to step, so the result is exact attention over the whole sequence.
 */
import { DestroyedError, OptionError, ShapeError } from "../errors.ts";
import { lossSignal } from "../gpu/device-loss.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { MemoryLedger, type MemoryUse } from "../gpu/ledger.ts";
import { resolveAttention } from "../kernels/attention-options.ts";
import { bindMask } from "../kernels/attention-params.ts";
import { createAttentionStepper } from "../kernels/attention-stepper.ts";
import type { AttentionChoice } from "../kernels/tiles.ts";
import { expectInteger, expectOneOf } from "../shape.ts";
import { KvBlock } from "./kv-block.ts";
import type { RingBlock } from "./kv-page.ts";
import { newPace, Pacer } from "./pacer.ts";
import { expectBytes, QueryShard, type QueryTensors, type RingKernels } from "./query-shard.ts";
import { createReadback, type Readback } from "./readback.ts";
import {
  createDecodeStates,
  type DecodeStates,
  decodeFromPages,
  decodeStatesIn,
  encodeDecodeFromPages,
} from "./ring-decode.ts";
import { pageSizes, ringKernels } from "./ring-kernels.ts";
import type {
  RingAppendTensors,
  RingAttendTensors,
  RingAttention,
  RingAttentionOptions,
  RingRunOptions,
  RingTensors,
  TokenSpan,
} from "./ring-types.ts";
import { sequenceBlocks } from "./sequence-blocks.ts";
import { MAX_WORLD_SIZE, shardTokens, tokenCount } from "./shard.ts";
import type { Transport } from "./transport.ts";
import { createHostTransport } from "./transport-host.ts";
import { createLocalTransport } from "./transport-local.ts";
import { turn } from "./turn.ts";
import type { BlockMemory, RingLayout, RingStep, TokenRange } from "./types.ts";
import { type Workspace, WorkspacePool } from "./workspace.ts";

/**
 * Ring attention on one device: compiles its kernels and takes its staging buffers. See {@link RingAttention}.
 * @throws {OptionError} for a bad option.
 * @throws {UnsupportedDeviceError} where the device lacks what the options need.
 * @throws {GpuMemoryError}
 */
export async function createRingAttention(device: GPUDevice, options: RingAttentionOptions): Promise<RingAttention> {
  const where = "createRingAttention";
  const worldSize = expectInteger(where, "worldSize", options.worldSize ?? 1, 1, MAX_WORLD_SIZE);
  const layout = expectOneOf(where, "layout", options.layout ?? "zigzag", ["contiguous", "zigzag", "striped"]);
  const blockMemory = expectOneOf(where, "blockMemory", options.blockMemory ?? "gpu", ["gpu", "host"]);
  const label = options.label ?? "ring";
  const attention = { ...options, layout: "bthd" as const, label };
  const resolved = resolveAttention(where, attention);
  const keyRow = resolved.kvHeads * resolved.headDim * resolved.bytesPerElement;
  const valueRow = resolved.kvHeads * resolved.valueDim * resolved.bytesPerElement;
  const { pageSize, inPlaceSize } = pageSizes(where, device, { keyRow, valueRow }, options.pageSize);
  const maxDecodeTokens = expectInteger(where, "maxDecodeTokens", options.maxDecodeTokens ?? 1);
  const made: { destroy(): void }[] = [];
  try {
    const stepper = await createAttentionStepper(device, attention);
    made.push(stepper);
    const kernels = await ringKernels(device, resolved, stepper);
    let readback: Readback | undefined;
    let transport = options.transport;
    if (blockMemory === "host") {
      // Two parts, each rounded up to 4 bytes.
      readback = await createReadback(device, pageSize * (keyRow + valueRow) + 8, label);
      made.push(readback);
    }
    if (!transport) {
      const sizes = { keyBytes: pageSize * keyRow, valueBytes: pageSize * valueRow, tokens: pageSize };
      transport = blockMemory === "host" ? await createHostTransport(device, sizes, label) : createLocalTransport();
      made.push(transport);
    }
    const decodeStates = await createDecodeStates(device, stepper, worldSize, maxDecodeTokens, label);
    made.push(decodeStates);
    const sizes = { worldSize, pageSize, inPlaceSize, maxDecodeTokens };
    const ledger = options.ledger ?? new MemoryLedger();
    return new Ring({ ...sizes, layout, blockMemory, label, ledger, kernels, readback, transport, decodeStates, made });
  } catch (error) {
    for (const part of made) part.destroy();
    throw error;
  }
}

interface RingParts {
  worldSize: number;
  layout: RingLayout;
  blockMemory: BlockMemory;
  pageSize: number;
  /** Most tokens of one dispatch where a sequence lies on the GPU as a whole. */
  inPlaceSize: number;
  maxDecodeTokens: number;
  label: string;
  ledger: MemoryLedger;
  kernels: RingKernels;
  readback: Readback | undefined;
  transport: Transport;
  decodeStates: DecodeStates;
  /** What the ring made and destroys. */
  made: readonly { destroy(): void }[];
}

class Ring implements RingAttention {
  readonly worldSize: number;
  readonly layout: RingLayout;
  readonly blockMemory: BlockMemory;
  readonly pageSize: number;
  private readonly device: GPUDevice;
  private readonly workspaces: WorkspacePool;
  private readonly pace = newPace();
  private readonly destroyed = new AbortController();
  /** Aborted, with the reason why, when the ring is destroyed or its device is lost. */
  private readonly life: AbortSignal;

  constructor(private readonly parts: RingParts) {
    ({
      worldSize: this.worldSize,
      layout: this.layout,
      blockMemory: this.blockMemory,
      pageSize: this.pageSize,
    } = parts);
    this.device = parts.kernels.device;
    this.workspaces = new WorkspacePool(this.device, parts.ledger);
    this.life = AbortSignal.any([this.destroyed.signal, lossSignal(this.device)]);
  }

  get choice(): AttentionChoice {
    return this.parts.kernels.stepper.choice;
  }

  shard({ start, count }: TokenSpan): TokenRange[][] {
    return shardTokens({ start, count, worldSize: this.worldSize, layout: this.layout });
  }

  createBlocks(label = "K/V", mostTokens?: number): KvBlock[] {
    this.checkUsable();
    const { kernels, readback, pageSize, blockMemory } = this.parts;
    const { kvHeads, headDim, valueDim, dtype } = kernels.resolved;
    const { window } = kernels.rule;
    const settings = {
      ...{ device: this.device, ledger: this.parts.ledger, copier: kernels.copier, memory: blockMemory, readback },
      ...{ pageSize, mostTokens, window, kvHeads, headDim, valueDim, dtype },
    };
    return Array.from({ length: this.worldSize }, (_, rank) => new KvBlock(settings, rank, `${label} rank ${rank}`));
  }

  async reserve(blocks: readonly KvBlock[], span: TokenSpan): Promise<void> {
    this.checkBlocks("reserve", blocks);
    const shards = this.shard(span);
    await Promise.all(blocks.map((block, rank) => block.reserve(tokenCount(shards[rank]!), span.start)));
  }

  encodeAppend(target: CommandTarget, blocks: readonly KvBlock[], tensors: RingAppendTensors): void {
    this.checkBlocks("encodeAppend", blocks);
    const { key, value, start } = tensors;
    const shards = this.shard(tensors);
    for (const [rank, block] of blocks.entries())
      if (shards[rank]!.length > 0)
        block.encodeAppend(target, { key, value, firstPosition: start, ranges: shards[rank]! });
  }

  async append(blocks: readonly KvBlock[], tensors: RingAppendTensors, options: RingRunOptions = {}): Promise<void> {
    this.checkBlocks("append", blocks);
    // Only before the first: a chunk that is begun is appended whole, or the ranks would not agree on what they hold.
    options.signal?.throwIfAborted();
    const { key, value, start } = tensors;
    if (this.blockMemory === "gpu") {
      await this.reserve(blocks, tensors);
      const encoder = this.device.createCommandEncoder({ label: `${this.parts.label} append` });
      this.encodeAppend(encoder, blocks, tensors);
      this.device.queue.submit([encoder.finish()]);
      return;
    }
    const shards = this.shard(tensors);
    await Promise.all(
      blocks.map((block, rank) => block.append({ key, value, firstPosition: start, ranges: shards[rank]! })),
    );
  }

  async *run(tensors: RingTensors, options: RingRunOptions = {}): AsyncGenerator<RingStep> {
    const where = "RingAttention.run";
    this.checkUsable();
    const { kernels, blockMemory } = this.parts;
    const pageSize = blockMemory === "gpu" ? this.parts.inPlaceSize : this.pageSize;
    const batch = expectInteger(where, "batch", tensors.batch ?? 1);
    if (blockMemory === "host" && batch > pageSize)
      throw new OptionError(
        `${where}: expected batch to be at most pageSize (${pageSize}) with blockMemory "host", for a page holds a token of every batch entry, got ${batch}`,
      );
    const seqLen = expectInteger(where, "seqLen", tensors.seqLen);
    const kvSeqLen = expectInteger(where, "kvSeqLen", tensors.kvSeqLen ?? seqLen);
    const queryStart = expectInteger(where, "queryStart", tensors.queryStart ?? 0, 0);
    const kvStart = expectInteger(where, "kvStart", tensors.kvStart ?? 0, 0);
    const { resolved } = kernels;
    for (const name of ["querySegments", "kvSegments"] as const)
      if (resolved.hasSegments !== (tensors[name] !== undefined))
        throw new ShapeError(`${where}: hasSegments is ${resolved.hasSegments}, got ${name} ${typeof tensors[name]}`);
    if (resolved.mask !== "none") {
      // Told here, before any work, and not by the first shard that meets it.
      const mask = tensors.mask && { ...tensors.mask, kvOrigin: tensors.mask.kvOrigin ?? kvStart };
      const queries = { tokens: seqLen, positions: { start: queryStart } };
      const keys = { tokens: kvSeqLen, positions: { start: kvStart } };
      bindMask(this.device, where, mask, resolved, { batch, queries, keys });
    }
    if (tensors.querySegments) expectBytes(where, "querySegments", tensors.querySegments, batch * seqLen * 4);
    if (tensors.kvSegments) expectBytes(where, "kvSegments", tensors.kvSegments, batch * kvSeqLen * 4);
    const queries = { ...tensors, batch, seqLen, firstPosition: queryStart, kvStart };
    const sequence = { ...tensors, batch, kvSeqLen, firstPosition: kvStart };
    const kvShards = this.shard({ start: kvStart, count: kvSeqLen });
    yield* this.go(where, queries, options, false, async (ranks, workspace, encoder) => {
      // Blocks of ranks that compute elsewhere are made there.
      const own = kvShards.map((ranges, rank) => (ranks.includes(rank) ? ranges : []));
      const made = await sequenceBlocks(kernels, workspace, blockMemory, pageSize, sequence, own);
      made.encodeGather(encoder());
      return made.blocks;
    });
  }

  async *attend(tensors: RingAttendTensors, options: RingRunOptions = {}): AsyncGenerator<RingStep> {
    const where = "RingAttention.attend";
    this.checkBlocks(where, tensors.blocks);
    this.checkPlain(where);
    const seqLen = expectInteger(where, "count", tensors.count);
    const firstPosition = expectInteger(where, "start", tensors.start, 0);
    const { query, output, lse, sinks, blocks } = tensors;
    this.checkNotEmpty(where, blocks);
    const queries = { query, output, lse, sinks, batch: 1, seqLen, firstPosition };
    // A model's layers call this one after the other: they share the memory.
    yield* this.go(where, queries, options, true, async () => blocks);
  }

  encodeDecode(target: CommandTarget, tensors: RingAttendTensors): void {
    const where = "RingAttention.encodeDecode";
    this.checkDecode(where, tensors);
    encodeDecodeFromPages(where, this.parts.kernels, this.parts.decodeStates, target, tensors);
  }

  async decode(tensors: RingAttendTensors, options: RingRunOptions = {}): Promise<void> {
    const where = "RingAttention.decode";
    this.checkDecode(where, tensors);
    const signal = this.signalWith(options.signal);
    signal.throwIfAborted();
    const workspace = this.workspaces.take();
    try {
      const states = await decodeStatesIn(workspace, this.parts.decodeStates);
      const pass = this.parts.transport.beginPass(this.worldSize, signal);
      await decodeFromPages(this.parts.kernels, states, pass, tensors, signal);
    } finally {
      this.workspaces.give(workspace, !this.life.aborted);
    }
  }

  memory(): MemoryUse[] {
    return Array.from({ length: this.worldSize }, (_, rank) => this.parts.ledger.of(rank));
  }

  destroy(): void {
    if (this.destroyed.signal.aborted) return;
    this.destroyed.abort(new DestroyedError(`${this.parts.label}: this ring attention was destroyed`));
    this.workspaces.destroy();
    for (const part of this.parts.made) part.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  /** Shards the queries, turns the ring once and writes the results. */
  private async *go(
    where: string,
    queries: QueryTensors,
    options: RingRunOptions,
    keepWorkspace: boolean,
    makeBlocks: (
      ranks: readonly number[],
      workspace: Workspace,
      encoder: () => GPUCommandEncoder,
    ) => Promise<readonly RingBlock[]>,
  ): AsyncGenerator<RingStep> {
    const { kernels, transport, label } = this.parts;
    const { heads, headDim, valueDim, bytesPerElement, hasSinks } = kernels.resolved;
    const rows = queries.batch * queries.seqLen * heads;
    expectBytes(where, "query", queries.query, rows * headDim * bytesPerElement);
    expectBytes(where, "output", queries.output, rows * valueDim * bytesPerElement);
    if (queries.lse) expectBytes(where, "lse", queries.lse, rows * 4);
    if (hasSinks !== (queries.sinks !== undefined))
      throw new ShapeError(`${where}: hasSinks is ${hasSinks}, got sinks ${typeof queries.sinks}`);
    const signal = this.signalWith(options.signal);
    signal.throwIfAborted();
    const workspace = this.workspaces.take();
    try {
      const pacer = new Pacer(this.device, this.pace, signal, label);
      const shardRanges = this.shard({ start: queries.firstPosition, count: queries.seqLen });
      const pass = transport.beginPass(this.worldSize, signal);
      const shards = await QueryShard.createAll(kernels, workspace, queries, shardRanges, pass.ranks);
      const blocks = await makeBlocks(pass.ranks, workspace, () => pacer.encoder);
      signal.throwIfAborted();
      for (const shard of shards) shard.encodeGather(pacer.encoder);
      // Whoever reads a block elsewhere must find its tokens in it.
      if (shards.length < this.worldSize) pacer.submit();
      yield* turn(pass, this.worldSize, shards, blocks, pacer);
      for (const shard of shards) shard.encodeFinalize(pacer.encoder);
      if (options.onSubmitted) {
        pacer.submit();
        // Whoever writes into it now does so behind this pass, on the same queue.
        this.workspaces.give(workspace, keepWorkspace && !this.life.aborted);
        options.onSubmitted();
      }
      yield* pacer.drain();
    } finally {
      this.workspaces.give(workspace, keepWorkspace && !this.life.aborted);
    }
  }

  private signalWith(signal: AbortSignal | undefined): AbortSignal {
    return signal ? AbortSignal.any([signal, this.life]) : this.life;
  }

  private checkUsable(): void {
    this.life.throwIfAborted();
  }

  private checkBlocks(where: string, blocks: readonly KvBlock[]): void {
    this.checkUsable();
    if (blocks.length === this.worldSize && blocks.every((block, rank) => block.kvRank === rank)) return;
    throw new OptionError(
      `${where}: expected ${this.worldSize} blocks, of rank 0 to ${this.worldSize - 1} in order, got ranks [${blocks.map((block) => block.kvRank).join(", ")}]`,
    );
  }

  private checkNotEmpty(where: string, blocks: readonly KvBlock[]): void {
    if (blocks.every((block) => block.tokenCount === 0))
      throw new ShapeError(`${where}: expected blocks that hold at least one token, got ${blocks.length} empty ones`);
  }

  /** Masks given per call belong to whole sequences: blocks keep no segments, and know nothing of a mask's columns. */
  private checkPlain(where: string): void {
    const { mask, hasSegments, hasKvLengths } = this.parts.kernels.resolved;
    if (mask === "none" && !hasSegments && !hasKvLengths) return;
    throw new OptionError(
      `${where}: expected a ring without mask, hasSegments and hasKvLengths (they are for run), got mask "${mask}", hasSegments ${hasSegments}, hasKvLengths ${hasKvLengths}`,
    );
  }

  private checkDecode(where: string, tensors: RingAttendTensors): void {
    this.checkBlocks(where, tensors.blocks);
    this.checkPlain(where);
    this.checkNotEmpty(where, tensors.blocks);
    expectInteger(where, "start", tensors.start, 0);
    expectInteger(where, "count", tensors.count, 1, this.parts.maxDecodeTokens);
  }
}
