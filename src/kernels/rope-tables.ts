/**
 * Angles of rotary position embedding, computed in float64 on the CPU: in f32 the angle of position 1,000,000 is wrong by
 * up to 0.06 radians, here by less than 1e-9.
 *
 * Sources: RoFormer (arXiv 2104.09864); position interpolation (arXiv 2306.15595) for "linear"; dynamic NTK, YaRN
 * (arXiv 2309.00071) and Llama 3.1's scaling as Hugging Face transformers defines them in `modeling_rope_utils.py`.
 */
import { OptionError } from "../errors.ts";
import { expectInteger } from "../shape.ts";

/** How positions become angles. Frequencies of dimension pair i start as `theta ** (-2 i / headDim)`. */
export type RopeScaling =
  /** Angles as they are. */
  | { type: "default"; theta: number }
  /** Position interpolation: angles divided by `factor`. */
  | { type: "linear"; theta: number; factor: number }
  /** Dynamic NTK: theta grows once the sequence is longer than `originalMaxPositions`. */
  | { type: "dynamic"; theta: number; factor: number; originalMaxPositions: number }
  /** NTK by parts: slow dimensions interpolated, fast ones kept, a ramp between; cos and sin times `attentionFactor`. */
  | {
      type: "yarn";
      theta: number;
      factor: number;
      originalMaxPositions: number;
      /** Resolved: as given, or from mscale, or 0.1 ln(factor) + 1. */
      attentionFactor: number;
      /** Rotations within the original context above which a dimension is kept. Default 32. */
      betaFast: number;
      /** Rotations below which a dimension is interpolated whole. Default 1. */
      betaSlow: number;
      /** The ramp's ends are rounded outwards to whole dimensions. Default true. */
      truncate: boolean;
    }
  /** Llama 3.1: as yarn in wavelengths, without the attention factor. */
  | {
      type: "llama3";
      theta: number;
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositions: number;
    };

/** Radians per position of each pair, and what cos and sin are multiplied with (1 but for YaRN). */
export interface RopeFrequencies {
  /** `[rotaryDim / 2]` */
  frequencies: Float64Array;
  attentionFactor: number;
}

const TURN = 2 * Math.PI;

/**
 * Frequencies of the `rotaryDim / 2` pairs.
 * @param seqLen Tokens of the whole sequence: "dynamic" stretches theta by it once it exceeds `originalMaxPositions`.
 * @throws {OptionError} where rotaryDim is odd or a number of the config is not positive.
 */
export function ropeFrequencies(config: RopeScaling, rotaryDim: number, seqLen = 0): RopeFrequencies {
  expectInteger("ropeFrequencies", "rotaryDim", rotaryDim, 2);
  if (rotaryDim % 2) throw new OptionError(`ropeFrequencies: expected rotaryDim to be even, got ${rotaryDim}`);
  for (const [name, value] of Object.entries(config))
    if (typeof value === "number" && !(value > 0 && Number.isFinite(value)))
      throw new OptionError(`ropeFrequencies: expected ${name} to be a positive number, got ${value}`);
  const pairs = rotaryDim / 2;
  const powers = (theta: number) => Float64Array.from({ length: pairs }, (_, i) => theta ** ((-2 * i) / rotaryDim));
  const plain = powers(config.theta);
  switch (config.type) {
    case "default":
      return { frequencies: plain, attentionFactor: 1 };
    case "linear":
      return { frequencies: plain.map((f) => f / config.factor), attentionFactor: 1 };
    case "dynamic": {
      const { theta, factor, originalMaxPositions } = config;
      const length = Math.max(seqLen, originalMaxPositions);
      // One pair has nothing to stretch between: its frequency is 1 for every theta, and the exponent below is infinite.
      if (rotaryDim === 2) return { frequencies: plain, attentionFactor: 1 };
      const stretch = (factor * length) / originalMaxPositions - (factor - 1);
      return { frequencies: powers(theta * stretch ** (rotaryDim / (rotaryDim - 2))), attentionFactor: 1 };
    }
    case "yarn":
      return { frequencies: yarnFrequencies(config, plain, rotaryDim), attentionFactor: config.attentionFactor };
    case "llama3": {
      const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = config;
      return {
        frequencies: plain.map((f) => {
          const turns = (originalMaxPositions * f) / TURN; // full turns within the original context
          if (turns > highFreqFactor) return f;
          if (turns < lowFreqFactor) return f / factor;
          const smooth = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
          return ((1 - smooth) * f) / factor + smooth * f;
        }),
        attentionFactor: 1,
      };
    }
    default:
      throw new OptionError(
        `ropeFrequencies: expected type default, linear, dynamic, yarn or llama3, got ${(config as { type: string }).type}`,
      );
  }
}

/** YaRN, "NTK by parts": dimensions that turn often are kept, those that never turn once are interpolated, a ramp between. */
function yarnFrequencies(
  config: Extract<RopeScaling, { type: "yarn" }>,
  plain: Float64Array,
  rotaryDim: number,
): Float64Array {
  const { theta, factor, originalMaxPositions, betaFast, betaSlow, truncate } = config;
  // The dimension pair that makes `turns` full turns within the original context.
  const pairOf = (turns: number) =>
    (rotaryDim * Math.log(originalMaxPositions / (turns * TURN))) / (2 * Math.log(theta));
  let low = pairOf(betaFast);
  let high = pairOf(betaSlow);
  if (truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, rotaryDim - 1);
  if (low === high) high += 0.001; // as the reference implementation: no division by zero
  return plain.map((f, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
    return (f / factor) * ramp + f * (1 - ramp);
  });
}

/** What {@link ropeTable} computes. */
export interface RopeTableOptions {
  /** Elements of a head that rotate; even. */
  rotaryDim: number;
  /** One position per token, in any order: integers from 0 to 2^53, which stay exact. */
  positions: ArrayLike<number>;
  /** Tokens of the whole sequence, for "dynamic". Default: the largest position + 1. */
  seqLen?: number;
}

/**
 * `[T, rotaryDim / 2, 2]`: cos and sin of every token and pair, rounded to f32 once, at the end.
 * @throws {OptionError} for a position that is not an integer of at least 0.
 */
export function ropeTable(config: RopeScaling, options: RopeTableOptions): Float32Array<ArrayBuffer> {
  const { rotaryDim, positions } = options;
  let largest = -1;
  for (let t = 0; t < positions.length; t++)
    largest = Math.max(largest, expectInteger("ropeTable", `positions[${t}]`, positions[t], 0));
  const { frequencies, attentionFactor } = ropeFrequencies(config, rotaryDim, options.seqLen ?? largest + 1);
  const table = new Float32Array(positions.length * rotaryDim);
  let at = 0;
  for (let t = 0; t < positions.length; t++)
    for (const frequency of frequencies) {
      const angle = positions[t]! * frequency;
      table[at++] = Math.cos(angle) * attentionFactor;
      table[at++] = Math.sin(angle) * attentionFactor;
    }
  return table;
}
