/** One run of a model: prompt to ids, chunked prefill through the ring, then token by token until something stops it. */
import { OptionError } from "../errors.ts";
import { read } from "../gpu/buffers.ts";
import { untilAborted } from "../ring/abort.ts";
import { describeValue, expectInteger } from "../shape.ts";
import { answerPieces } from "./answer-pieces.ts";
import { encodeChat } from "./chat-template.ts";
import type { Activations, Decoder } from "./decoder.ts";
import { Forward } from "./forward.ts";
import type { KvCache, LayerAttention } from "./kv-cache.ts";
import { type ChunkTime, estimateSecondsLeft, type StatisticsRecorder } from "./statistics.ts";
import { TokenPicker } from "./token-picker.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { ChatMessage, GeneratedPiece, GenerateOptions, Prompt } from "./types.ts";

/** What a prompt is checked against, and made ids with. */
export interface PromptContext {
  /** Absent for presets: ids in, ids out. */
  tokenizer: Tokenizer | undefined;
  vocabSize: number;
  bosTokenId: number | undefined;
  eosTokenIds: readonly number[];
}

/** What a run needs of a model. */
export interface RunContext extends PromptContext {
  device: GPUDevice;
  decoder: Decoder;
  attention: LayerAttention;
}

/** {@link GenerateOptions} with nothing left open. */
export interface RunOptions {
  maxNewTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  stopIds: ReadonlySet<number>;
  addBos: boolean;
  /** Infinity: the whole prompt at once. */
  prefillChunkSize: number;
  onProgress: GenerateOptions["onProgress"];
}

function expectNumber(name: string, value: number, fits: boolean, expected: string): number {
  if (typeof value === "number" && fits) return value;
  throw new OptionError(`generate: expected ${name} to be ${expected}, got ${describeValue(value)}`);
}

/** Checks the options of a run. @throws {OptionError} naming option, expectation and what came. */
export function checkRunOptions(options: GenerateOptions, context: PromptContext): RunOptions {
  const { maxNewTokens = 128, temperature = 0, topP = 1, topK = 0, seed = 0, prefillChunkSize = 512 } = options;
  for (const id of options.stopIds ?? []) expectInteger("generate", "each of stopIds", id, 0, context.vocabSize - 1);
  return {
    maxNewTokens: expectInteger("generate", "maxNewTokens", maxNewTokens, 0),
    temperature: expectNumber(
      "temperature",
      temperature,
      temperature >= 0 && temperature < 1e6,
      "a number of at least 0",
    ),
    topP: expectNumber("topP", topP, topP > 0 && topP <= 1, "a number above 0 and at most 1"),
    topK: expectInteger("generate", "topK", topK, 0),
    seed: expectInteger("generate", "seed", seed, 0),
    stopIds: new Set([...context.eosTokenIds, ...(options.stopIds ?? [])]),
    addBos: options.addBos ?? true,
    prefillChunkSize:
      prefillChunkSize === Number.POSITIVE_INFINITY
        ? prefillChunkSize
        : expectInteger("generate", "prefillChunkSize", prefillChunkSize),
    onProgress: options.onProgress,
  };
}

const isIds = (prompt: Prompt): prompt is readonly number[] =>
  Array.isArray(prompt) && (prompt.length === 0 || typeof prompt[0] === "number");

/** True for a conversation. */
export const isChat = (prompt: Prompt): prompt is readonly ChatMessage[] =>
  typeof prompt !== "string" && !isIds(prompt);

/**
 * Checks what can be said of a prompt before it is tokenized.
 * @throws {OptionError} for ids that are no ids of this model, text without a tokenizer, a conversation without a template.
 */
export function checkPrompt(prompt: Prompt, context: PromptContext): void {
  if (isIds(prompt)) {
    for (const id of prompt)
      if (!Number.isInteger(id) || id < 0 || id >= context.vocabSize)
        throw new OptionError(
          `generate: expected token ids from 0 to ${context.vocabSize - 1} (the vocabulary has ${context.vocabSize}), got ${describeValue(id)}`,
        );
    return;
  }
  if (typeof prompt !== "string" && !Array.isArray(prompt))
    throw new OptionError(
      `generate: expected a prompt of text, token ids or chat messages, got ${describeValue(prompt)}`,
    );
  if (!context.tokenizer)
    throw new OptionError("generate: expected token ids, since this model has no tokenizer, got text");
  if (typeof prompt !== "string" && !context.tokenizer.chatTemplate)
    throw new OptionError("generate: expected text or token ids, since this model has no chat template, got messages");
}

/**
 * The ids of a prompt. Ids are taken as they are; text gets BOS as the tokenizer does; a conversation goes through the
 * model's chat template, which brings its own. An empty prompt is BOS alone.
 * @throws {OptionError} for a prompt of no tokens, or with a token that the model has no embedding for.
 */
export async function promptIds(prompt: Prompt, addBos: boolean, context: PromptContext): Promise<number[]> {
  const { tokenizer, bosTokenId, vocabSize } = context;
  let ids: number[];
  if (isIds(prompt)) ids = [...prompt];
  else if (typeof prompt === "string") ids = tokenizer!.encode(prompt, { addBos });
  else ids = await encodeChat(tokenizer!, prompt as readonly ChatMessage[]);
  if (ids.length === 0 && addBos && bosTokenId !== undefined) ids = [bosTokenId];
  // A tokenizer may know tokens that the model has no embedding for.
  const foreign = ids.find((id) => id >= vocabSize);
  if (foreign !== undefined)
    throw new OptionError(
      `generate: expected a prompt of tokens from 0 to ${vocabSize - 1} (config.json's vocab_size is ${vocabSize}), got token ${describeValue(tokenizer!.decode([foreign], { keepSpecial: true }))} with id ${foreign}, which the tokenizer knows and the model does not`,
    );
  if (ids.length > 0) return ids;
  const why = addBos ? "and this model has no BOS to begin with" : "and no BOS is added (addBos is false)";
  throw new OptionError(`generate: expected a prompt of at least one token, got an empty one, ${why}`);
}

/** Prefill in chunks, with progress; the logits after the last token are in the activations when it resolves. */
async function prefill(
  forward: Forward,
  ids: readonly number[],
  options: RunOptions,
  recorder: StatisticsRecorder,
  context: RunContext,
  signal: AbortSignal,
  encodePick?: (encoder: GPUCommandEncoder) => void,
): Promise<void> {
  const { onProgress } = options;
  const { layerCount } = context.decoder;
  const totalTokens = ids.length;
  const chunks: ChunkTime[] = [];
  const beginMs = performance.now();
  onProgress?.({ type: "prefill", doneTokens: 0, totalTokens, tokensPerSecond: 0, secondsLeft: Number.NaN });
  for (let start = 0; start < totalTokens; start += options.prefillChunkSize) {
    const chunkMs = performance.now();
    const chunk = ids.slice(start, start + options.prefillChunkSize);
    const isLast = start + chunk.length === totalTokens;
    await forward.prefill(chunk, start, isLast, {
      signal,
      ropeLength: totalTokens,
      encodePick,
      onSteps: (layer, steps) => {
        recorder.steps(steps);
        onProgress?.({ type: "ring", layer, layerCount, steps });
      },
    });
    // Not further ahead of the GPU than a chunk: keeps the queue short, so that an abort stops at once.
    await untilAborted(context.device.queue.onSubmittedWorkDone(), signal);
    const nowMs = performance.now();
    chunks.push({ start, count: chunk.length, seconds: (nowMs - chunkMs) / 1000 });
    const doneTokens = start + chunk.length;
    onProgress?.({
      type: "prefill",
      doneTokens,
      totalTokens,
      tokensPerSecond: doneTokens / Math.max((nowMs - beginMs) / 1000, 1e-6),
      secondsLeft: estimateSecondsLeft(chunks, totalTokens),
    });
  }
}

/** What a run holds on the GPU, and its way through the model. */
class RunMemory {
  private constructor(
    readonly activations: Activations,
    readonly cache: KvCache,
    readonly forward: Forward,
  ) {}

  /** Takes memory for chunks of `chunkSize` and a context of at most `maxTokens`. @throws {GpuMemoryError} */
  static async take(
    { device, decoder, attention }: RunContext,
    chunkSize: number,
    maxTokens: number,
  ): Promise<RunMemory> {
    const activations = await decoder.createActivations(chunkSize);
    try {
      const cache = await attention.createCache(maxTokens);
      return new RunMemory(activations, cache, new Forward(device, decoder, activations, cache));
    } catch (error) {
      activations.release();
      throw error;
    }
  }

  release(): void {
    this.cache.release();
    this.activations.release();
  }
}

/** A token on its way from the GPU. */
interface ComingToken {
  id: Promise<number>;
  /** When its step began to be encoded, and when its id was here, by the clock of `performance.now()`. */
  startMs: number;
  doneMs: number;
}

/** The choice encoded last. Nobody may come to wait for it (abort, stop id), and then its failure is nobody's. */
function take(picker: TokenPicker, startMs: number): ComingToken {
  const id = picker.take().then((taken) => {
    coming.doneMs = performance.now();
    return taken;
  });
  id.catch(() => {});
  const coming = { id, startMs, doneMs: Number.NaN };
  return coming;
}

/**
 * Runs a checked prompt. Memory is taken when the iteration begins and given back when it ends, however it ends.
 * @throws signal.reason
 */
export async function* run(
  context: RunContext,
  prompt: Prompt,
  options: RunOptions,
  recorder: StatisticsRecorder,
  signal: AbortSignal,
): AsyncGenerator<GeneratedPiece, void, undefined> {
  const { device } = context;
  let memory: RunMemory | undefined;
  let picker: TokenPicker | undefined;
  try {
    recorder.start();
    signal.throwIfAborted();
    const ids = await promptIds(prompt, options.addBos, context);
    const chunkSize = Math.min(options.prefillChunkSize, ids.length);
    memory = await RunMemory.take(context, chunkSize, ids.length + options.maxNewTokens);
    const { forward, cache, activations } = memory;
    picker = await TokenPicker.create(device, activations.logits, context.vocabSize, options);
    const pick = picker;
    const encodePick = (encoder: GPUCommandEncoder) => pick.encode(encoder, activations.ids);
    const pieces = answerPieces(context.tokenizer, ids, isChat(prompt));

    const give = (piece: GeneratedPiece): GeneratedPiece => {
      recorder.token();
      recorder.memory(cache.kvTokens());
      return piece;
    };

    const beginMs = performance.now();
    await prefill(forward, ids, options, recorder, context, signal, encodePick);
    if (options.maxNewTokens === 0) {
      recorder.prefillDone(ids.length, performance.now() - beginMs);
      recorder.finish("maxNewTokens");
      return;
    }
    // Greedy decode keeps one step ahead of what has been read back; what a step too many wrote ends with the run.
    const runsAhead = pick.isOnGpu && cache.canEncodeStep;
    let coming = take(pick, beginMs);
    let lastDoneMs = beginMs;
    for (let count = 1; ; count++) {
      const isLast = count === options.maxNewTokens;
      const position = ids.length + count - 1;
      const step = async (id: number | undefined) => {
        const startMs = performance.now();
        await forward.step(id, position, signal, encodePick);
        return take(pick, startMs);
      };
      const ahead = runsAhead && !isLast ? await step(undefined) : undefined;
      const id = await untilAborted(coming.id, signal);
      const { startMs, doneMs } = coming;
      if (count === 1) recorder.prefillDone(ids.length, doneMs - beginMs);
      // Not the time that the caller holds the iteration: a step begins with its encoding, or behind the step before it.
      else recorder.decoded(doneMs - Math.max(startMs, lastDoneMs));
      lastDoneMs = doneMs;
      if (options.stopIds.has(id)) {
        recorder.finish("stopId");
        for (const piece of pieces.stop()) yield give(piece);
        return;
      }
      const complete = pieces.push(id, isLast);
      if (isLast) recorder.finish("maxNewTokens");
      for (const piece of complete) yield give(piece);
      if (isLast) return;
      signal.throwIfAborted();
      coming = ahead ?? (await step(id));
    }
  } finally {
    recorder.memory(memory?.cache.kvTokens() ?? []);
    memory?.release();
    picker?.release();
  }
}

/** The logits `[V]` after a checked prompt, yielded once; memory as in {@link run}. @throws signal.reason */
export async function* runLogits(
  context: RunContext,
  prompt: Prompt,
  options: RunOptions,
  recorder: StatisticsRecorder,
  signal: AbortSignal,
): AsyncGenerator<Float32Array, void, undefined> {
  let memory: RunMemory | undefined;
  try {
    const ids = await promptIds(prompt, options.addBos, context);
    memory = await RunMemory.take(context, Math.min(options.prefillChunkSize, ids.length), ids.length);
    await prefill(memory.forward, ids, options, recorder, context, signal);
    const source = { buffer: memory.activations.logits, byteLength: context.vocabSize * 4 };
    const logits = new Float32Array(await untilAborted(read(context.device, source), signal));
    recorder.finish("maxNewTokens");
    yield logits;
  } finally {
    memory?.release();
  }
}
