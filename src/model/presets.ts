/**
 * The named configurations of the original system (LLaMA as Large World Model trains it), with random weights: benchmarks
 * need a model's sizes, not its knowledge. Source: the table of standard configurations in LWM's llama.py.
 */
import { OptionError } from "../errors.ts";
import type { WeightDtype } from "../shape.ts";
import { expectedTensors, type ModelConfig } from "./config.ts";
import type { LoadProgress } from "./types.ts";
import { makeWeights, type Weights } from "./weights.ts";

/** Sizes as the table gives them: hidden, intermediate, layers, heads, trained positions, RMSNorm's epsilon. */
const SIZES = {
  debug: { hidden: 256, intermediate: 256, layers: 2, heads: 2, positions: 2048, eps: 1e-6 },
  "200m": { hidden: 1024, intermediate: 2048, layers: 14, heads: 8, positions: 2048, eps: 1e-6 },
  "1b": { hidden: 2048, intermediate: 5504, layers: 22, heads: 16, positions: 2048, eps: 1e-6 },
  "3b": { hidden: 3200, intermediate: 8640, layers: 26, heads: 32, positions: 2048, eps: 1e-6 },
  "7b": { hidden: 4096, intermediate: 11_008, layers: 32, heads: 32, positions: 4096, eps: 1e-6 },
  "13b": { hidden: 5120, intermediate: 13_824, layers: 40, heads: 40, positions: 2048, eps: 1e-6 },
  "30b": { hidden: 6656, intermediate: 17_920, layers: 60, heads: 52, positions: 2048, eps: 1e-6 },
  "65b": { hidden: 8192, intermediate: 22_016, layers: 80, heads: 64, positions: 2048, eps: 1e-5 },
} as const;

/** A named configuration. */
export type PresetName = keyof typeof SIZES;

/** Every preset, smallest first. */
export const PRESET_NAMES = Object.keys(SIZES) as readonly PresetName[];

/**
 * A preset's configuration: vocabulary 32,000, heads as many as kvHeads, rope theta 10,000, untied head, BOS 0 and EOS 1 (the
 * original's defaults).
 * @throws {OptionError} for a name that is none.
 */
export function presetConfig(name: PresetName): ModelConfig {
  if (!Object.hasOwn(SIZES, name))
    throw new OptionError(`presetConfig: expected a name of ${PRESET_NAMES.join(", ")}, got ${JSON.stringify(name)}`);
  const size = SIZES[name];
  return {
    architecture: "LlamaForCausalLM",
    hiddenSize: size.hidden,
    intermediateSize: size.intermediate,
    layerCount: size.layers,
    heads: size.heads,
    kvHeads: size.heads,
    headDim: size.hidden / size.heads,
    vocabSize: 32_000,
    maxPositions: size.positions,
    rmsNormEps: size.eps,
    hiddenAct: "silu",
    tieWordEmbeddings: false,
    attentionBias: { query: false, key: false, value: false, output: false },
    mlpBias: false,
    qkNorm: false,
    rope: { type: "default", theta: 10_000 },
    layerTypes: Array.from({ length: size.layers }, () => "full_attention" as const),
    bosTokenId: 0,
    eosTokenIds: [1],
  };
}

/** 32 bits out of 32, every bit of the input in every bit of the output (the finalizer of MurmurHash3). */
function scramble(value: number): number {
  let x = value | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** A seed for a tensor: other tensors of one model share no values. */
function seedOf(name: string, seed: number): number {
  let hash = scramble(seed);
  for (let i = 0; i < name.length; i++) hash = scramble(hash ^ name.charCodeAt(i));
  return hash;
}

/** Standard deviation of the original's initial weights (`initializer_range`). */
const INITIALIZER_RANGE = 0.02;

/**
 * Random values of elements `[start, start + values.length)` of a tensor, written into `values`: 0.02 times a unit-variance
 * variable for matrices and embeddings, 1 for norms, 0 for biases. Depends on name, seed and element only, so that any slice can be
 * made by itself. The variable is a sum of four uniform ones: near enough to normal for a benchmark, and cheap.
 */
export function randomTensor(name: string, start: number, values: Float32Array, seed = 0): void {
  if (name.endsWith(".bias")) {
    values.fill(0);
    return;
  }
  if (name.endsWith("norm.weight")) {
    values.fill(1);
    return;
  }
  const key = seedOf(name, seed);
  // Four bytes summed have mean 510 and variance 4 * (256^2 - 1) / 12.
  const scale = INITIALIZER_RANGE / Math.sqrt((65_536 - 1) / 3);
  for (let i = 0; i < values.length; i++) {
    const bits = scramble(Math.imul(start + i, 0x9e3779b1) ^ key);
    values[i] = ((bits & 255) + ((bits >>> 8) & 255) + ((bits >>> 16) & 255) + (bits >>> 24) - 510) * scale;
  }
}

/**
 * Random weights for a configuration, made tensor by tensor (at most 4 MiB of values at a time on the host). The same seed
 * gives the same model.
 * @throws {GpuMemoryError} where the model does not fit. Abort rejects with `signal.reason`; then nothing is held.
 */
export function randomWeights(
  device: GPUDevice,
  config: ModelConfig,
  options: {
    seed?: number;
    dtype?: WeightDtype;
    onProgress?: (progress: LoadProgress) => void;
    signal?: AbortSignal;
  } = {},
): Promise<Weights> {
  const { seed = 0, dtype = "f32" } = options;
  const make = (name: string, _shape: readonly number[], start: number, values: Float32Array) =>
    randomTensor(name, start, values, seed);
  return makeWeights(device, expectedTensors(config), dtype, make, options);
}
