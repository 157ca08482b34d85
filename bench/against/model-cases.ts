/** In which models contenders meet: a prompt is read, then tokens are decoded one by one. */
import type { PresetName } from "../../src/index.ts";
import type { ModelConfig } from "../onnx/model-numbers.ts";

/** Where a model comes from: a preset's random weights, or the folder that the host serves at "/model/". */
export type BenchModel = { preset: PresetName } | { folder: "stories260K" };

/** One model with a prompt of so many tokens. */
export interface ModelAgainstCase {
  name: string;
  model: BenchModel;
  promptTokens: number;
  /** Tokens of one decode sample, at most: slow contenders decode fewer. */
  newTokens: number;
  /** Tokens of the prompt that the oracle reads too: all, where its float64 loops take seconds. */
  oracleTokens: number;
}

/** All of them. A result's case is the name with "-prefill" or "-decode". */
export const MODEL_AGAINST_CASES: readonly ModelAgainstCase[] = [
  { name: "model-debug-128", model: { preset: "debug" }, promptTokens: 128, newTokens: 32, oracleTokens: 128 },
  { name: "model-debug-512", model: { preset: "debug" }, promptTokens: 512, newTokens: 32, oracleTokens: 512 },
  // onnxruntime-web takes minutes on a CPU adapter to read 256 tokens.
  { name: "model-200m-64", model: { preset: "200m" }, promptTokens: 64, newTokens: 16, oracleTokens: 16 },
  { name: "model-200m-256", model: { preset: "200m" }, promptTokens: 256, newTokens: 16, oracleTokens: 16 },
  {
    ...{ name: "model-stories260K-128", model: { folder: "stories260K" } as const },
    ...{ promptTokens: 128, newTokens: 32, oracleTokens: 128 },
  },
  {
    // The model was made for 512 positions.
    ...{ name: "model-stories260K-448", model: { folder: "stories260K" } as const },
    ...{ promptTokens: 448, newTokens: 32, oracleTokens: 448 },
  },
];

/** A prompt of bytes that follow no order. */
export const benchPrompt = (tokens: number): number[] =>
  Array.from({ length: tokens }, (_, index) => ((index * 7919 + 3) % 253) + 3);

/** What a model's job is made of: kinds "model-prefill" and "model-decode". */
export interface ModelJob {
  model: BenchModel;
  promptTokens: number;
  newTokens: number;
}

/** Question to either kind: the logits `[V]` after these tokens. */
export interface ModelQuestion {
  logitsOf: number[];
}

/** Elements of the matrices that a token meets in one layer, and those of the output head. */
function matrixElements({ hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize }: ModelConfig) {
  const projections = hiddenSize * headDim * (2 * heads + 2 * kvHeads);
  return {
    keyValue: 2 * hiddenSize * headDim * kvHeads,
    layer: projections + 3 * hiddenSize * intermediateSize,
    head: hiddenSize * vocabSize,
  };
}

/**
 * Multiplications and additions of reading a prompt, for the logits of its last token: in the last layer only that token's
 * query, output and MLP are wanted, and a causal pair counts once.
 */
export function prefillFlops(config: ModelConfig, promptTokens: number): number {
  const { layerCount, heads, headDim } = config;
  const { keyValue, layer, head } = matrixElements(config);
  const attention = 4 * heads * headDim;
  const full = promptTokens * layer + (attention / 2) * ((promptTokens * (promptTokens + 1)) / 2);
  const last = (promptTokens - 1) * keyValue + layer + (attention / 2) * promptTokens;
  return 2 * ((layerCount - 1) * full + last + head);
}

/** Bytes of weights (f32), keys and values that a decoded token must read at least, with `context` tokens before it. */
export function decodeBytes(config: ModelConfig, context: number): number {
  const { layerCount, kvHeads, headDim } = config;
  const { layer, head } = matrixElements(config);
  return 4 * (layerCount * (layer + 2 * context * kvHeads * headDim) + head);
}
