/**
 * Ring Attention (Liu, Zaharia, Abbeel, arXiv 2310.01889) of the one rank that computes here, its neighbours being elsewhere:
 * the loop is the same as with all ranks on one device (turn.ts), blocks come and go over links.
 */
import { DestroyedError, OptionError } from "../errors.ts";
import { allocate, release, viewOf } from "../gpu/buffers.ts";
import { lossSignal } from "../gpu/device-loss.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { MemoryLedger } from "../gpu/ledger.ts";
import { resolveAttention } from "../kernels/attention-options.ts";
import { createAttentionStepper } from "../kernels/attention-stepper.ts";
import { createWireConverter, type WireConverter } from "../kernels/wire-f16.ts";
import { expectInteger } from "../shape.ts";
import type { BlockExit } from "./block-sender.ts";
import { KvBlock } from "./kv-block.ts";
import { newPace, Pacer } from "./pacer.ts";
import { formatRanges, isSamePositions, MAX_POSITION, toRanges } from "./positions.ts";
import { beginQueryRotation } from "./query-rotation.ts";
import { expectBytes, QueryShard, type RingKernels } from "./query-shard.ts";
import { type Answerer, createAnswerer } from "./rank-answer.ts";
import type {
  AnswerTensors,
  PartialAttention,
  RankAttendTensors,
  RankAttention,
  RankAttentionOptions,
  RankStep,
  RingPlace,
  WireDtype,
} from "./rank-types.ts";
import { createReadback, type Readback } from "./readback.ts";
import { createDecodeStates, type DecodeStates, encodeDecodeFromPages } from "./ring-decode.ts";
import { pageSizes, ringKernels } from "./ring-kernels.ts";
import { checkPlace, planRing } from "./ring-plan.ts";
import { tokenCount } from "./shard.ts";
import { createStaging, type Staging } from "./staging.ts";
import { beginLinksPass } from "./transport-links.ts";
import { turn } from "./turn.ts";
import { WorkspacePool } from "./workspace.ts";

/** Pages that are read back at once: what may be copied before the first compute is submitted. */
const READBACKS = 8;

/** The GPU memory through which blocks come and go; made with the first pass that has anybody to talk to. */
interface Port {
  exit: BlockExit;
  staging: Staging;
}

/**
 * Compiles a rank's kernels. See {@link RankAttention}.
 * @throws {OptionError} for a bad option.
 * @throws {UnsupportedDeviceError} where the device lacks what the options need.
 * @throws {GpuMemoryError}
 */
export async function createRankAttention(device: GPUDevice, options: RankAttentionOptions): Promise<RankAttention> {
  const where = "createRankAttention";
  const label = options.label ?? "rank";
  const { heads, kvHeads, headDim, scale, softcap, isCausal, window } = options;
  const { design, candidate, expectedSeqLen, tune } = options;
  const choice = { design, candidate, expectedSeqLen, tune };
  const attention = { heads, kvHeads, headDim, scale, softcap, isCausal, window, ...choice, label };
  const resolved = resolveAttention(where, attention);
  const row = resolved.kvHeads * resolved.headDim * 4;
  const { pageSize } = pageSizes(where, device, { keyRow: row, valueRow: row }, options.pageSize);
  const stepper = await createAttentionStepper(device, attention);
  try {
    const kernels = await ringKernels(device, resolved, stepper);
    const states = await createDecodeStates(device, stepper, 1, 1, label);
    return new Rank(kernels, states, pageSize, label, options.ledger ?? new MemoryLedger());
  } catch (error) {
    stepper.destroy();
    throw error;
  }
}

class Rank implements RankAttention {
  private readonly device: GPUDevice;
  private readonly workspaces: WorkspacePool;
  private readonly pace = newPace();
  private readonly destroyed = new AbortController();
  /** Aborted, with the reason why, when this is destroyed or its device is lost. */
  private readonly life: AbortSignal;
  private readonly ports = new Map<WireDtype, Promise<Port>>();
  private readonly made: { destroy(): void }[] = [];
  private readonly answerer: Answerer;
  private readback: Promise<Readback> | undefined;
  private converter: Promise<WireConverter> | undefined;

  constructor(
    private readonly kernels: RingKernels,
    private readonly states: DecodeStates,
    readonly pageSize: number,
    private readonly label: string,
    private readonly ledger: MemoryLedger,
  ) {
    this.device = kernels.device;
    this.workspaces = new WorkspacePool(this.device, ledger);
    this.life = AbortSignal.any([this.destroyed.signal, lossSignal(this.device)]);
    this.answerer = createAnswerer(kernels, label);
    this.made.push(kernels.stepper, states, this.answerer);
  }

  createBlock(rank: number, label = "K/V"): KvBlock {
    this.life.throwIfAborted();
    const { kvHeads, headDim, valueDim, dtype } = this.kernels.resolved;
    // Without the window: tokens that are lost with a peer are computed again from those before them, in every layer.
    const settings = {
      ...{ device: this.device, ledger: this.ledger, copier: this.kernels.copier, memory: "gpu" as const },
      ...{ pageSize: this.pageSize, isAnyOrder: true, kvHeads, headDim, valueDim, dtype },
    };
    return new KvBlock(settings, expectInteger("RankAttention.createBlock", "rank", rank, 0), `${label} rank ${rank}`);
  }

  async *attend(
    tensors: RankAttendTensors,
    place: RingPlace,
    options: { signal?: AbortSignal } = {},
  ): AsyncGenerator<RankStep> {
    const where = "RankAttention.attend";
    this.life.throwIfAborted();
    options.signal?.throwIfAborted();
    checkPlace(where, place);
    const { kernels, device, label } = this;
    const { heads, headDim } = kernels.resolved;
    const { rank, worldSize, wireDtype } = place;
    const { query, output, block } = tensors;
    const seqLen = tokenCount(place.queries[rank]!);
    expectBytes(where, "query", query, seqLen * heads * headDim * 4);
    expectBytes(where, "output", output, seqLen * heads * headDim * 4);
    const plan = planRing(where, place, kernels.rule);
    const planned = plan.held(rank);
    if (!isSamePositions(block.ranges, planned))
      throw new OptionError(
        `${where}: expected a block that holds what the plan says (place.held), ${formatRanges(toRanges(planned))}, got ${formatRanges(block.ranges)}`,
      );
    const ending = new AbortController();
    const signals = [this.life, ending.signal, ...(options.signal ? [options.signal] : [])];
    const signal = AbortSignal.any(signals);
    const workspace = this.workspaces.take();
    let settled: () => Promise<unknown> = async () => {};
    try {
      const { exit, staging } = await this.port(wireDtype, rank);
      const pacer = new Pacer(device, this.pace, signal, label);
      const queries = {
        query: viewOf(query),
        output: viewOf(output),
        batch: 1,
        seqLen,
        firstPosition: 0,
        isPacked: true,
      };
      const fail = (reason: unknown) => ending.abort(reason);
      if (place.rotation === "query" && worldSize > 1) {
        const parts = { kernels, plan, queries, block, exit, workspace, pacer, fail };
        const pass = await beginQueryRotation(place, parts, signal);
        settled = pass.settled;
        yield* pass.turn();
        pass.shard.encodeFinalize(pacer.encoder);
        yield* pacer.drain() as AsyncGenerator<RankStep>;
        await pass.finish();
        return;
      }
      const shards = await QueryShard.createAll(kernels, workspace, queries, place.queries, [rank]);
      const parts = { plan, block, exit, staging, pageSize: this.pageSize, fail };
      const pass = beginLinksPass(place, parts, signal);
      await pass.started;
      const blocks = place.held.map((_, owner) =>
        owner === rank ? block : { kvRank: owner, tokenCount: 0, pages: [] },
      );
      yield* turn(pass, worldSize, shards, blocks, pacer) as AsyncGenerator<RankStep>;
      for (const shard of shards) shard.encodeFinalize(pacer.encoder);
      yield* pacer.drain() as AsyncGenerator<RankStep>;
      await pass.finish();
    } catch (error) {
      // Where one thing fails the rest is called off: what called it off is the cause.
      throw signal.aborted ? signal.reason : error;
    } finally {
      ending.abort(new DestroyedError(`${where}: this pass has ended`));
      await settled();
      this.workspaces.give(workspace, !this.life.aborted);
    }
  }

  answer(
    query: Parameters<RankAttention["answer"]>[0],
    count: number,
    position: number,
    block: KvBlock,
    signal: AbortSignal,
  ): Promise<PartialAttention> {
    return this.answerer.answer(query, count, position, block, AbortSignal.any([signal, this.life]));
  }

  encodeAnswer(target: CommandTarget, { query, output, position, block }: AnswerTensors): void {
    const where = "RankAttention.encodeAnswer";
    this.life.throwIfAborted();
    expectInteger(where, "position", position, 0, MAX_POSITION);
    if (block.tokenCount === 0) throw new OptionError(`${where}: expected a block that holds tokens, got an empty one`);
    const tensors = { query, output, start: position, count: 1, blocks: [block] };
    encodeDecodeFromPages(where, this.kernels, this.states, target, tensors);
  }

  destroy(): void {
    if (this.destroyed.signal.aborted) return;
    this.destroyed.abort(new DestroyedError(`${this.label}: this rank attention was destroyed`));
    this.workspaces.destroy();
    for (const part of this.made) part.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  /** The way out and in for one type of K/V on the wire; one that failed to be made is tried again. */
  private port(wireDtype: WireDtype, rank: number): Promise<Port> {
    let port = this.ports.get(wireDtype);
    if (!port) {
      port = this.makePort(wireDtype, rank);
      this.ports.set(wireDtype, port);
      port.catch(() => this.ports.delete(wireDtype));
    }
    return port;
  }

  private async makePort(wireDtype: WireDtype, rank: number): Promise<Port> {
    const { device, label, pageSize } = this;
    const { kvHeads, headDim } = this.kernels.resolved;
    const width = kvHeads * headDim;
    const pageBytes = pageSize * width * 4;
    const isHalf = wireDtype === "f16";
    this.readback ??= this.keep(createReadback(device, 2 * pageBytes, label, READBACKS));
    this.readback.catch(() => (this.readback = undefined));
    const readback = await this.readback;
    let half: BlockExit["half"];
    if (isHalf) {
      this.converter ??= createWireConverter(device);
      const converter = await this.converter;
      const scratch = await allocate(device, { label: `${label} halves`, byteLength: pageBytes + 512, owner: rank });
      await this.keep(Promise.resolve({ destroy: () => release(scratch) }));
      half = { converter, scratch };
    }
    const sizes = { keyBytes: pageBytes, valueBytes: pageBytes, tokens: pageSize };
    const staging = await this.keep(createStaging(device, sizes, label, half?.converter));
    return { exit: { readback, keyWidth: width, valueWidth: width, half }, staging };
  }

  /** What this made and destroys; at once, where it came too late. */
  private async keep<T extends { destroy(): void }>(making: Promise<T>): Promise<T> {
    const part = await making;
    if (!this.destroyed.signal.aborted) this.made.push(part);
    else part.destroy();
    this.life.throwIfAborted();
    return part;
  }
}
