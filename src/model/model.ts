/** A loaded model: what `loadModel` returns. Owns its weights and rings; runs of `generate` take and give back the rest. */
import { DestroyedError, OptionError } from "../errors.ts";
import { explainFailure, lossSignal } from "../gpu/device-loss.ts";
import { MAX_WORLD_SIZE } from "../ring/shard.ts";
import { describeValue, expectInteger, expectOneOf } from "../shape.ts";
import type { ModelConfig } from "./config.ts";
import type { Decoder } from "./decoder.ts";
import { checkPrompt, checkRunOptions, type PromptContext, type RunContext, run, runLogits } from "./generate.ts";
import { createLayerAttention, type LayerAttention } from "./kv-cache.ts";
import { StatisticsRecorder } from "./statistics.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { GenerateOptions, Generation, Model, Prompt, RingOptions } from "./types.ts";

/** What a model is made of. The model owns `decoder` and `attention` from then on. */
export interface ModelParts {
  device: GPUDevice;
  name: string;
  /** config.json as it came. */
  configJson: Readonly<Record<string, unknown>>;
  config: ModelConfig;
  tokenizer: Tokenizer | undefined;
  decoder: Decoder;
  attention: LayerAttention;
}

/**
 * Ring options with nothing left open. The kinds other than "ring" run on one rank, whatever `worldSize` says.
 * @throws {OptionError} for a bad value, and for host blocks asked of a kind of attention that is no ring.
 */
export function resolveRing(where: string, ring: RingOptions = {}): Required<RingOptions> {
  const attention = expectOneOf(where, "ring.attention", ring.attention ?? "ring", [
    "vanilla",
    "flash",
    "blockwise",
    "ring",
  ]);
  const worldSize = expectInteger(where, "ring.worldSize", ring.worldSize ?? 1, 1, MAX_WORLD_SIZE);
  const layout = expectOneOf(where, "ring.layout", ring.layout ?? "zigzag", ["contiguous", "zigzag", "striped"]);
  const blockMemory = expectOneOf(where, "ring.blockMemory", ring.blockMemory ?? "gpu", ["gpu", "host"]);
  if (attention !== "ring" && blockMemory === "host")
    throw new OptionError(
      `${where}: expected ring.blockMemory "gpu" with ring.attention "${attention}" (only "ring" streams blocks from the host), got "host"`,
    );
  // One option switches the kind (as in the original system), so a worldSize beside it rests; results are the same.
  return { worldSize: attention === "ring" ? worldSize : 1, layout, blockMemory, attention };
}

/** What rooms that build on this one see of a model: its parts, to run it in ways of their own. Still the model's. */
export interface ModelInternals extends Omit<ModelParts, "attention"> {
  /** What prompts are checked against. */
  prompts: PromptContext;
  /** Aborts, with the reason, when the model is destroyed or its device is lost. */
  ended: AbortSignal;
}

/** {@link Model} on one device. */
export class LoadedModel implements Model {
  readonly name: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly hasChatTemplate: boolean;
  private readonly destroyed = new AbortController();
  /** Aborts with the reason when the model is destroyed or its device is lost. */
  private readonly ended: AbortSignal;
  private attention: LayerAttention;
  private current: { signal: AbortSignal; end(): Promise<unknown> } | undefined;

  constructor(private readonly parts: ModelParts) {
    this.name = parts.name;
    this.config = parts.configJson;
    this.attention = parts.attention;
    this.hasChatTemplate = parts.tokenizer?.chatTemplate !== undefined;
    this.ended = AbortSignal.any([this.destroyed.signal, lossSignal(parts.device)]);
  }

  get ring(): Readonly<Required<RingOptions>> {
    return this.attention.ring;
  }

  tokenize(text: string, options: { addBos?: boolean } = {}): number[] {
    return this.tokenizer("tokenize").encode(text, { addBos: options.addBos ?? true });
  }

  detokenize(ids: readonly number[]): string {
    return this.tokenizer("detokenize").decode(ids);
  }

  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    this.ended.throwIfAborted();
    const context = this.context();
    const runOptions = checkRunOptions(options, context);
    checkPrompt(prompt, context);
    const recorder = new StatisticsRecorder(this.parts.device, this.ring, this.attention.ledger);
    const iterator = this.exclusiveRun(recorder, options.signal, (signal) =>
      run(this.context(), prompt, runOptions, recorder, signal),
    );
    let isTaken = false;
    return {
      statistics: recorder.statistics,
      [Symbol.asyncIterator]() {
        if (isTaken)
          throw new OptionError(
            "generate: expected one iteration over a generation, got a second one: call generate again for another run",
          );
        isTaken = true;
        return iterator;
      },
    };
  }

  async logits(
    prompt: Prompt,
    options: Pick<GenerateOptions, "addBos" | "prefillChunkSize" | "signal" | "onProgress"> = {},
  ): Promise<Float32Array> {
    this.ended.throwIfAborted();
    const runOptions = checkRunOptions(options, this.context());
    checkPrompt(prompt, this.context());
    const recorder = new StatisticsRecorder(this.parts.device, this.ring, this.attention.ledger);
    const run = this.exclusiveRun(recorder, options.signal, (signal) =>
      runLogits(this.context(), prompt, runOptions, recorder, signal),
    );
    for await (const logits of run) return logits;
    throw new DestroyedError(`logits: expected model ${this.name} to finish its run, got none`);
  }

  async setRing(ring: RingOptions): Promise<void> {
    this.ended.throwIfAborted();
    const resolved = resolveRing("setRing", ring);
    await this.freeForNext("setRing");
    const { device, config } = this.parts;
    const attention = await createLayerAttention(device, config, resolved);
    if (this.ended.aborted || this.current) attention.destroy();
    this.ended.throwIfAborted();
    if (this.current) throw busyError("setRing", this.name);
    this.attention.destroy();
    this.attention = attention;
  }

  destroy(): void {
    if (this.destroyed.signal.aborted) return;
    this.destroyed.abort(new DestroyedError(`model ${this.name}: expected a usable model, got a destroyed one`));
    this.attention.destroy();
    this.parts.decoder.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  /** See {@link internalsOf}. */
  internals(): ModelInternals {
    this.ended.throwIfAborted();
    return { ...this.parts, prompts: this.prompts(), ended: this.ended };
  }

  private context(): RunContext {
    const { device, decoder } = this.parts;
    return { device, decoder, attention: this.attention, ...this.prompts() };
  }

  private prompts(): PromptContext {
    const { tokenizer, config } = this.parts;
    return {
      tokenizer,
      vocabSize: config.vocabSize,
      bosTokenId: tokenizer ? tokenizer.bosTokenId : config.bosTokenId,
      eosTokenIds: [...new Set([...config.eosTokenIds, ...(tokenizer?.eosTokenIds ?? [])])],
    };
  }

  private tokenizer(where: string): Tokenizer {
    if (this.parts.tokenizer) return this.parts.tokenizer;
    throw new OptionError(`${where}: expected a model with a tokenizer, got preset ${this.name}, which has none`);
  }

  /** Waits for a run that was aborted to give its memory back. @throws {OptionError} where a run goes on. */
  private async freeForNext(where: string): Promise<void> {
    const { current } = this;
    if (!current) return;
    if (!current.signal.aborted) throw busyError(where, this.name);
    await current.end();
    if (this.current === current) this.current = undefined;
  }

  /** One run at a time. An abort ends the run at once, also while the caller holds the iteration. */
  private async *exclusiveRun<Piece>(
    recorder: StatisticsRecorder,
    userSignal: AbortSignal | undefined,
    start: (signal: AbortSignal) => AsyncGenerator<Piece, void, undefined>,
  ): AsyncGenerator<Piece, void, undefined> {
    while (this.current) await this.freeForNext("generate");
    const signal = userSignal ? AbortSignal.any([this.ended, userSignal]) : this.ended;
    signal.throwIfAborted();
    const inner = start(signal);
    const entry = { signal, end: () => inner.return() };
    this.current = entry;
    const abort = () => void inner.return().catch(() => {});
    signal.addEventListener("abort", abort, { once: true });
    try {
      yield* inner;
      // Ended from outside while the caller held the iteration: that is no ordinary end.
      if (recorder.statistics.stopReason === "aborted") signal.throwIfAborted();
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw error instanceof OptionError ? error : await explainFailure(this.parts.device, error);
    } finally {
      signal.removeEventListener("abort", abort);
      if (this.current === entry) this.current = undefined;
    }
  }
}

/**
 * The inside of a loaded model. @throws {OptionError} for what `loadModel` did not make. @throws {DestroyedError |
 *   DeviceLostError} where it is of no use any more.
 */
export function internalsOf(model: Model): ModelInternals {
  if (model instanceof LoadedModel) return model.internals();
  throw new OptionError(`internalsOf: expected a model that loadModel made, got ${describeValue(model)}`);
}

const busyError = (where: string, name: string): OptionError =>
  new OptionError(
    `${where}: expected model ${name} to be idle, got a run in progress: finish its iteration or abort it first (one run at a time)`,
  );
