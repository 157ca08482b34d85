/** Choosing the next token from logits, on the CPU and seeded: the same seed gives the same tokens on every machine. */
import { OptionError } from "../errors.ts";
import { describeValue, expectInteger } from "../shape.ts";
import { seededRandom } from "./seeded-random.ts";

/** How tokens are chosen; the same names as in `GenerateOptions`. */
export interface SamplingOptions {
  /** Divides the logits. 0 (the default): greedy, whatever the rest says. */
  temperature?: number;
  /** Keep the k likeliest. 0 (the default): all. */
  topK?: number;
  /** Of those, keep the smallest set whose probability reaches this; above 0, at most 1 (the default: all). */
  topP?: number;
  /** Default 0. */
  seed?: number;
}

/** Draws tokens one after another; each draw moves its random numbers on. */
export interface Sampler {
  /**
   * The next token's id.
   * @param logits `[V]`, natural-log units
   * @throws {OptionError} where a logit is NaN, or none is a number above -inf.
   */
  sample(logits: ArrayLike<number>): number;
  /** Moves on as if so many tokens had been drawn. */
  skip(draws: number): void;
}

/** A token that may be drawn. */
interface Candidate {
  id: number;
  weight: number;
}

/** Index of the largest logit, the first of equal ones. @throws {OptionError} as {@link Sampler.sample}. */
export function greedyToken(logits: ArrayLike<number>): number {
  let best = -1;
  let largest = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (Number.isNaN(logit)) throw new OptionError(`sample: expected logits to be numbers, got NaN for id ${id}`);
    if (logit > largest) {
      largest = logit;
      best = id;
    }
  }
  if (best < 0) throw new OptionError(`sample: expected a logit above -inf, got none among ${logits.length}`);
  return best;
}

const likeliestFirst = (a: Candidate, b: Candidate) => b.weight - a.weight || a.id - b.id;

/** Tokens that top-k and top-p leave, likeliest first where either is in force. Weights are not normalised. */
function candidatesOf(logits: ArrayLike<number>, temperature: number, topK: number, topP: number): Candidate[] {
  const largest = logits[greedyToken(logits)]!;
  let candidates: Candidate[] = [];
  let total = 0;
  for (let id = 0; id < logits.length; id++) {
    // The difference first: it is 0 or less, so a small temperature gives 0 and never inf / inf. A +inf logit stands alone.
    const difference = logits[id] === largest ? 0 : logits[id]! - largest;
    const weight = Math.exp(difference / temperature);
    if (weight > 0) {
      candidates.push({ id, weight });
      total += weight;
    }
  }
  if (topK > 0 && topK < candidates.length) {
    candidates = candidates.sort(likeliestFirst).slice(0, topK);
    total = candidates.reduce((sum, { weight }) => sum + weight, 0);
  }
  if (topP === 1) return candidates;
  // All tokens below this share weigh less than 1 - topP together, so none of them is needed; it spares most of the sort.
  const least = ((1 - topP) * total) / candidates.length;
  candidates = candidates.filter(({ weight }) => weight >= least).sort(likeliestFirst);
  let reached = 0;
  const end = candidates.findIndex(({ weight }) => (reached += weight) >= topP * total);
  return end < 0 ? candidates : candidates.slice(0, end + 1);
}

/**
 * A sampler: temperature first, then top-k, then top-p, as Hugging Face's `generate` orders them.
 * @throws {OptionError} for a temperature below 0, a topK that is not an integer of at least 0, or a topP outside (0, 1].
 */
export function createSampler(options: SamplingOptions = {}): Sampler {
  const { temperature = 0, topP = 1, seed = 0 } = options;
  const topK = expectInteger("createSampler", "topK", options.topK ?? 0, 0);
  expectInteger("createSampler", "seed", seed, Number.MIN_SAFE_INTEGER);
  if (!(typeof temperature === "number" && temperature >= 0 && temperature < Number.POSITIVE_INFINITY))
    throw new OptionError(
      `createSampler: expected temperature to be a number of at least 0, got ${describeValue(temperature)}`,
    );
  if (!(typeof topP === "number" && topP > 0 && topP <= 1))
    throw new OptionError(
      `createSampler: expected topP to be a number above 0 and at most 1, got ${describeValue(topP)}`,
    );
  const random = seededRandom(seed);
  return {
    sample(logits) {
      if (temperature === 0) return greedyToken(logits);
      const candidates = candidatesOf(logits, temperature, topK, topP);
      let rest = random() * candidates.reduce((sum, { weight }) => sum + weight, 0);
      for (const { id, weight } of candidates) if ((rest -= weight) < 0) return id;
      return candidates[candidates.length - 1]!.id; // rounding alone can lead here
    },
    skip(draws) {
      if (temperature === 0) return;
      for (let draw = 0; draw < draws; draw++) random();
    },
  };
}
