/** What people meet of a model: loading it, generating with it, and the figures that come back. */
import type { AttentionKind } from "../kernels/attention-types.ts";
import type { BlockMemory, RingLayout, RingStep } from "../ring/types.ts";

/** The ring a model runs on. */
export interface RingOptions {
  /** 1 to 64 ranks. Rests with other kinds of attention than "ring": those run on one rank. Default 1. */
  worldSize?: number;
  /** Default "zigzag". */
  layout?: RingLayout;
  /** Where K/V blocks live; "host" needs attention "ring". Default "gpu". */
  blockMemory?: BlockMemory;
  /** Default "ring". The other kinds run on one rank with all keys and values in GPU memory. */
  attention?: AttentionKind;
}

/** Where a model comes from: a Hugging Face id ("owner/name"), a URL of a folder, files, or a folder handle. */
export type ModelSource = string | URL | readonly File[] | FileSystemDirectoryHandle | ModelFiles;

/** A folder of files read by name: what every source becomes. */
export interface ModelFiles {
  /** For messages: the id, URL or folder name. */
  readonly name: string;
  /** Bytes of the file, or undefined where it is absent. */
  size(path: string, signal?: AbortSignal): Promise<number | undefined>;
  /** Bytes `[start, end)` of the file (the whole unless given). Rejects where it is absent or cut short. */
  read(path: string, range?: { start: number; end: number }, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;
}

/** Loading, as it goes. */
export interface LoadProgress {
  phase: "config" | "tokenizer" | "weights" | "compile" | "ready";
  /** A sentence for people: "Loading weights: model.layers.3.mlp.up_proj.weight". */
  message: string;
  loadedBytes: number;
  totalBytes: number;
}

/** How a model is loaded. */
export interface LoadOptions {
  device: GPUDevice;
  ring?: RingOptions;
  onProgress?: (progress: LoadProgress) => void;
  signal?: AbortSignal;
  /** Hugging Face access token. */
  token?: string;
  /**
   * Type that weights are kept in on the GPU. Default "auto": as stored; what one kernel reads together (a matrix and its
   * bias, the matrices of an MLP) and is stored in different types is kept as f32, which holds all of them exactly; and so is f16 on CPU adapters
   * (SwiftShader, lavapipe), where reading it halves the speed ("f16" keeps it, for half the memory).
   */
  weightDtype?: "auto" | "f32" | "f16" | "bf16";
  /** Tokens per chunk through the MLP. Default 512. */
  mlpChunkSize?: number;
}

/** How text is generated. */
export interface GenerateOptions {
  /** Default 128. */
  maxNewTokens?: number;
  /** 0 (the default): greedy. */
  temperature?: number;
  /** Keep the smallest set of tokens whose probability reaches this. Default 1. */
  topP?: number;
  /** Keep the k likeliest. 0 (the default): all. */
  topK?: number;
  /** Seed of the sampler. Default 0. */
  seed?: number;
  /** Ids that end the answer, beside the model's own. */
  stopIds?: readonly number[];
  /** Put BOS in front as the tokenizer does. Default true. */
  addBos?: boolean;
  /** Tokens per prefill chunk; Infinity: the whole prompt at once. Default 512. */
  prefillChunkSize?: number;
  signal?: AbortSignal;
  /** Prefill and ring, as they go. */
  onProgress?: (progress: GenerateProgress) => void;
}

/** What `generate` reports while it works. */
export type GenerateProgress =
  | { type: "prefill"; doneTokens: number; totalTokens: number; tokensPerSecond: number; secondsLeft: number }
  | { type: "ring"; layer: number; layerCount: number; steps: readonly RingStep[] };

/** One piece of an answer: never cuts a character in two, so its text may be empty while one is incomplete. */
export interface GeneratedPiece {
  tokenId: number;
  text: string;
}

/** One rank's share of a run. */
export interface RankStatistics {
  rank: number;
  kvTokens: number;
  computeMs: number;
  transferMs: number;
  waitMs: number;
  /** Bytes on the GPU of this model's rank: K/V, query shards and states. */
  gpuBytes: number;
  /** At most since the run began. */
  peakGpuBytes: number;
}

/** A run in figures. */
export interface GenerateStatistics {
  promptTokens: number;
  newTokens: number;
  prefillTokensPerSecond: number;
  /** After the first token, without the time that the caller holds the iteration. */
  decodeTokensPerSecond: number;
  timeToFirstTokenMs: number;
  /** Exposed communication as a share of prefill time, 0 to 1. */
  exposedShare: number;
  /** Of everything that Ringwise holds on the device, other models too, since the run began (its ledger's peaks start anew). */
  peakGpuBytes: number;
  stopReason: "maxNewTokens" | "stopId" | "aborted";
  ring: { worldSize: number; layout: RingLayout; blockMemory: BlockMemory; ranks: RankStatistics[] };
}

/** A conversation for chat models. */
export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

/** Text, ready token ids, or a conversation (through the model's own chat template). */
export type Prompt = string | readonly number[] | readonly ChatMessage[];

/**
 * A run of `generate`: iterate its pieces, once (a second iteration throws OptionError); `statistics` is complete when the
 * iteration ends.
 */
export interface Generation extends AsyncIterable<GeneratedPiece> {
  readonly statistics: GenerateStatistics;
}

/** A loaded model. */
export interface Model {
  readonly name: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly ring: Readonly<Required<RingOptions>>;
  /** True where the tokenizer comes with a chat template. */
  readonly hasChatTemplate: boolean;
  /**
   * Token ids of a text, by the model's own tokenizer. Special tokens in it are read as such.
   * @param options addBos: put BOS in front where this tokenizer does so (default true).
   * @throws {OptionError} for what is no text, or where the model has no tokenizer (presets).
   */
  tokenize(text: string, options?: { addBos?: boolean }): number[];
  /**
   * The text of these ids, without special tokens.
   * @throws {OptionError} for ids outside of the vocabulary, or where the model has no tokenizer (presets).
   */
  detokenize(ids: readonly number[]): string;
  /**
   * Answers a prompt. Options and ids are checked at once; the run begins with the iteration and holds GPU memory until
   * that ends, by itself, by `break` or by an abort. One run at a time: a second iteration throws while one goes on, and
   * waits where that one was aborted. A stop id ends the answer and is no part of it. Prompts longer than the model's
   * `max_position_embeddings` are taken (rope tables are made per position); whether a model makes sense of them is its own.
   * @throws {OptionError} for bad options, ids outside of the vocabulary, a conversation without a chat template.
   */
  generate(prompt: Prompt, options?: GenerateOptions): Generation;
  /** Logits `[V]` after the prompt's last token. Counts as a run: one at a time. */
  logits(
    prompt: Prompt,
    options?: Pick<GenerateOptions, "addBos" | "prefillChunkSize" | "signal" | "onProgress">,
  ): Promise<Float32Array>;
  /**
   * Other ring for the runs to come (the weights stay). What `ring` leaves out takes its default, not what was set before.
   * @throws {OptionError} for bad options, or while a run goes on.
   */
  setRing(ring: RingOptions): Promise<void>;
  /** Frees weights, caches and scratch, and ends a run that goes on. Runs asked for later throw DestroyedError. */
  destroy(): void;
  [Symbol.dispose](): void;
}
