/**
 * A model on one rank of a ring of peers: the weights are the model's, the K/V of the rank's tokens live here. Prefill
 * (`rank-forward.ts`) and decode (`rank-decode.ts`) are operations on them, one at a time, that are committed or rolled back.
 */
import { DestroyedError, GpuMemoryError, OptionError, RingwiseError } from "../errors.ts";
import { allocateAll, release } from "../gpu/buffers.ts";
import { explainFailure } from "../gpu/device-loss.ts";
import { MemoryLedger, type MemoryUse } from "../gpu/ledger.ts";
import { createRankAttention } from "../ring/rank-attention.ts";
import type { PartialAttention, RankStep } from "../ring/rank-types.ts";
import { tokenCount } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";
import { expectInteger } from "../shape.ts";
import type { Activations } from "./decoder.ts";
import { perLayer } from "./kv-cache.ts";
import { internalsOf } from "./model.ts";
import { RankCache } from "./rank-cache.ts";
import { answerQuery, HostCopy, type LeadCopies, leadAlone, leadToken } from "./rank-decode.ts";
import { checkPlan, forwardRank, type RankParts } from "./rank-forward.ts";
import type { DecodeExchange, ForwardPlan, HeldTokens, RankRun } from "./rank-types.ts";
import type { Model } from "./types.ts";

/** How a rank run is made. */
export interface RankRunOptions {
  /** Tokens per K/V page. Default as in `RingAttentionOptions`. */
  pageSize?: number;
  /**
   * Most tokens that one rank computes in one operation: bounds the memory of activations, which is taken as it is needed.
   * A plan with more for any rank is refused by all. The same on all peers. Default 512.
   */
  chunkSize?: number;
}

/** Tokens per rank and operation, unless given. */
export const RANK_CHUNK_SIZE = 512;

/**
 * A run of a model as one rank of a ring of peers, holding nothing yet. Several may share a model (they take turns on its
 * device); while one works, the model's own `generate` may too.
 * @throws {OptionError} for a bad option, or a model that `loadModel` did not make.
 * @throws {DestroyedError | DeviceLostError | GpuMemoryError | ShaderCompileError}
 */
export async function openRank(model: Model, options: RankRunOptions = {}): Promise<RankRun> {
  const { device, config, decoder, ended } = internalsOf(model);
  const chunkSize = expectInteger("openRank", "chunkSize", options.chunkSize ?? RANK_CHUNK_SIZE);
  const { pageSize } = options;
  if (pageSize !== undefined) expectInteger("openRank", "pageSize", pageSize);
  const { heads, kvHeads, headDim, vocabSize } = config;
  const ledger = new MemoryLedger();
  try {
    const { layers: attention, destroy } = await perLayer(config, (kind) =>
      createRankAttention(device, { heads, kvHeads, headDim, isCausal: true, window: kind.window, pageSize, ledger }),
    );
    if (ended.aborted) {
      destroy();
      throw ended.reason;
    }
    const blocks = attention.map((one, layer) => one.createBlock(0, `layer ${layer}`));
    const cache = new RankCache(blocks, kvHeads * headDim * 4);
    const parts = { device, decoder, attention, cache, vocabSize, heads, kvHeads, headDim };
    return new OpenRank(parts, ledger, chunkSize, ended, destroy);
  } catch (error) {
    throw error instanceof OptionError ? error : await explainFailure(device, error);
  }
}

/** Key and value of a token on its way into a block. */
interface Incoming {
  key: GPUBuffer;
  value: GPUBuffer;
}

class OpenRank implements RankRun {
  readonly layerCount: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly kvBytesPerToken: number;
  private readonly released = new AbortController();
  /** Aborts when the run is released, the model destroyed or the device lost. */
  private readonly life: AbortSignal;
  private readonly signals = new WeakMap<AbortSignal, AbortSignal>();
  /** The operation in progress. */
  private current: string | undefined;
  private activations: Activations | undefined;
  private copies: LeadCopies | undefined;
  private incoming: Incoming | undefined;

  constructor(
    private readonly parts: RankParts,
    private readonly ledger: MemoryLedger,
    private readonly chunkSize: number,
    ended: AbortSignal,
    private readonly destroyAttention: () => void,
  ) {
    const { heads, kvHeads, headDim, vocabSize, decoder } = parts;
    this.layerCount = decoder.layerCount;
    this.heads = heads;
    this.kvHeads = kvHeads;
    this.headDim = headDim;
    this.vocabSize = vocabSize;
    this.kvBytesPerToken = decoder.layerCount * 2 * kvHeads * headDim * 4;
    this.life = AbortSignal.any([this.released.signal, ended]);
  }

  get held(): readonly TokenRange[] {
    return this.parts.cache.held;
  }

  get gpuBytes(): number {
    return this.parts.cache.gpuBytes;
  }

  get memory(): Readonly<MemoryUse> {
    return this.ledger.total;
  }

  forward(
    ids: ArrayLike<number>,
    plan: ForwardPlan,
    signal: AbortSignal,
    onSteps?: (layer: number, steps: readonly RankStep[]) => void,
  ): Promise<void> {
    return this.operation("forward", signal, async (signal) => {
      this.parts.cache.expectCommitted("forward");
      const checked = checkPlan(plan, this.held, this.chunkSize);
      const activations = await this.activationsFor(tokenCount(plan.tokens[plan.rank]!));
      await forwardRank(this.parts, activations, ids, checked, signal, onSteps);
    });
  }

  lead(
    id: number,
    position: number,
    keeps: boolean,
    exchange: DecodeExchange,
    signal: AbortSignal,
  ): Promise<Float32Array<ArrayBuffer>> {
    return this.operation("lead", signal, async (signal) => {
      this.parts.cache.expectCommitted("lead");
      const activations = await this.activationsFor(1);
      this.copies ??= await this.makeCopies();
      const { copies, parts } = this;
      try {
        if (exchange.isAlone && keeps)
          return await leadAlone(parts, activations, copies.logits, { id, position }, signal);
        return await leadToken(parts, activations, copies, { id, position, keeps }, exchange, signal);
      } catch (error) {
        // One of them may still be on its way.
        this.releaseCopies();
        throw error;
      }
    });
  }

  answer(
    layer: number,
    position: number,
    query: Float32Array<ArrayBuffer>,
    keyValue: { key: Float32Array<ArrayBuffer>; value: Float32Array<ArrayBuffer> } | undefined,
    signal: AbortSignal,
  ): Promise<PartialAttention> {
    return this.operation("answer", signal, async (signal) => {
      if (keyValue) this.incoming ??= await this.makeIncoming();
      return answerQuery(this.parts, this.incoming!, layer, position, query, keyValue, signal);
    });
  }

  commit(): void {
    this.expectIdle("commit");
    this.parts.cache.commit();
  }

  rollback(): void {
    this.expectIdle("rollback");
    // Nothing is left to undo after a release.
    if (!this.released.signal.aborted) this.parts.cache.rollback();
  }

  drop(ranges?: readonly TokenRange[]): Promise<void> {
    return this.operation("drop", undefined, async () => {
      await this.parts.cache.drop(ranges);
      // Without a context, what comes next is another run.
      if (!ranges) this.ledger.resetPeaks();
    });
  }

  exportTokens(ranges: readonly TokenRange[], signal: AbortSignal): Promise<HeldTokens> {
    return this.operation("exportTokens", signal, (signal) => this.parts.cache.exportTokens(ranges, signal));
  }

  importTokens(tokens: HeldTokens, signal: AbortSignal): Promise<void> {
    return this.operation("importTokens", signal, (signal) => this.parts.cache.importTokens(tokens, signal));
  }

  release(): void {
    if (this.released.signal.aborted) return;
    this.released.abort(new DestroyedError("RankRun: expected a run that is open, got a released one"));
    // An operation in progress is ended by the signal, and gives the memory back when it has ended.
    if (this.current === undefined) this.giveBack();
  }

  /** One at a time. When it rejects, nothing of it goes on. */
  private async operation<T>(
    name: string,
    userSignal: AbortSignal | undefined,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    this.expectIdle(name);
    const signal = userSignal ? this.signalWith(userSignal) : this.life;
    signal.throwIfAborted();
    this.current = name;
    const { cache } = this.parts;
    const waiting = cache.pendingCount;
    try {
      return await work(signal);
    } catch (error) {
      cache.fail(waiting);
      if (signal.aborted) throw signal.reason;
      // A lost device refuses memory, too.
      const isOwn = error instanceof RingwiseError && !(error instanceof GpuMemoryError);
      throw isOwn ? error : await explainFailure(this.parts.device, error);
    } finally {
      this.current = undefined;
      if (this.released.signal.aborted) this.giveBack();
    }
  }

  /** Made once per signal, for every layer of every token asks: in Node 20 what `any` makes is never quite forgotten. */
  private signalWith(userSignal: AbortSignal): AbortSignal {
    let signal = this.signals.get(userSignal);
    if (!signal) this.signals.set(userSignal, (signal = AbortSignal.any([userSignal, this.life])));
    return signal;
  }

  private expectIdle(name: string): void {
    if (this.current !== undefined)
      throw new OptionError(
        `RankRun.${name}: expected no operation in progress (wait until it has ended, also after an abort), got ${this.current}`,
      );
  }

  /** Activations grow as operations need them, never past `chunkSize`. */
  private async activationsFor(tokens: number): Promise<Activations> {
    const { activations, chunkSize } = this;
    if (activations && activations.chunkSize >= tokens) return activations;
    this.activations = undefined;
    activations?.release();
    const size = Math.min(chunkSize, 2 ** Math.ceil(Math.log2(Math.max(1, tokens))));
    this.activations = await this.parts.decoder.createActivations(size);
    return this.activations;
  }

  private async makeCopies(): Promise<LeadCopies> {
    const { device, heads, kvHeads, headDim, vocabSize } = this.parts;
    const projections = await HostCopy.create(device, "decode readback", (heads + 2 * kvHeads) * headDim * 4);
    try {
      return { projections, logits: await HostCopy.create(device, "logits readback", vocabSize * 4) };
    } catch (error) {
      projections.release();
      throw error;
    }
  }

  private releaseCopies(): void {
    this.copies?.projections.release();
    this.copies?.logits.release();
    this.copies = undefined;
  }

  private async makeIncoming(): Promise<Incoming> {
    const { device, kvHeads, headDim } = this.parts;
    const byteLength = kvHeads * headDim * 4;
    const [key, value] = await allocateAll(device, [
      { label: "incoming key", byteLength },
      { label: "incoming value", byteLength },
    ]);
    return { key: key!, value: value! };
  }

  private giveBack(): void {
    this.parts.cache.release();
    this.destroyAttention();
    this.activations?.release();
    this.activations = undefined;
    this.releaseCopies();
    release(this.incoming?.key);
    release(this.incoming?.value);
    this.incoming = undefined;
  }
}
