import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createSampler, greedyToken } from "../../src/model/sampling.ts";

const logits = [1, 3, -2, 3, 0.5];
const draw = (options: Parameters<typeof createSampler>[0], count: number, of: ArrayLike<number> = logits) => {
  const sampler = createSampler(options);
  return Array.from({ length: count }, () => sampler.sample(of));
};

describe("greedy", () => {
  it("takes the first of the largest", () => {
    expect(greedyToken(logits)).toBe(1);
    expect(draw({}, 3)).toEqual([1, 1, 1]);
    expect(draw({ temperature: 0, topK: 2, topP: 0.1, seed: 9 }, 2)).toEqual([1, 1]);
  });

  it("refuses NaN and rows without a number", () => {
    expect(() => greedyToken([1, Number.NaN])).toThrow("sample: expected logits to be numbers, got NaN for id 1");
    expect(() => draw({ temperature: 1 }, 1, [1, Number.NaN])).toThrow("got NaN for id 1");
    expect(() => greedyToken([-Infinity])).toThrow("expected a logit above -inf, got none among 1");
  });
});

describe("sampling", () => {
  it("draws each token as often as the softmax says", () => {
    const count = 20_000;
    for (const temperature of [0.5, 1, 2]) {
      const weights = logits.map((logit) => Math.exp(logit / temperature));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      const drawn = draw({ temperature, seed: 1 }, count);
      weights.forEach((weight, id) => {
        const p = weight / total;
        const seen = drawn.filter((token) => token === id).length / count;
        // Five standard deviations.
        expect(Math.abs(seen - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / count) + 1e-9);
      });
    }
  });

  it("repeats with the same seed and differs with another", () => {
    const options = { temperature: 1.5, topP: 0.95 };
    expect(draw({ ...options, seed: 7 }, 50)).toEqual(draw({ ...options, seed: 7 }, 50));
    expect(draw({ ...options, seed: 7 }, 50)).not.toEqual(draw({ ...options, seed: 8 }, 50));
  });

  it("top-k keeps the k likeliest, the lower id first among equals", () => {
    expect(new Set(draw({ temperature: 5, topK: 1 }, 50))).toEqual(new Set([1]));
    expect(new Set(draw({ temperature: 5, topK: 3 }, 300))).toEqual(new Set([0, 1, 3]));
    expect(new Set(draw({ temperature: 50, topK: 99 }, 500)).size).toBe(5);
  });

  it("top-p keeps the smallest set that reaches p, of what top-k left", () => {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    const powers = [0.125, 0.5, 0.25, 0.125].map((p) => Math.log(p));
    const seen = (options: object) => [...new Set(draw({ temperature: 1, ...options }, 400, powers))].sort();
    expect(seen({ topP: 0.49 })).toEqual([1]);
    expect(seen({ topP: 0.51 })).toEqual([1, 2]);
    expect(seen({ topP: 0.76 })).toEqual([0, 1, 2]);
    expect(seen({ topP: 0.9 })).toEqual([0, 1, 2, 3]);
    // Of two thirds and one third, 0.66 is reached by the first alone.
    expect(seen({ topK: 2, topP: 0.66 })).toEqual([1]);
  });

  it("equals the plain definition of top-k and top-p for any logits", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -20, max: 20, noNaN: true }), { minLength: 1, maxLength: 40 }),
        fc.integer({ min: 0, max: 45 }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        fc.integer(),
        (values, topK, topP, seed) => {
          // By weight: logits that differ by less than exp can tell are equal, and then the lower id comes first.
          const weight = (id: number) => Math.exp(values[id]! - Math.max(...values));
          const order = values.map((_, id) => id).sort((a, b) => weight(b) - weight(a) || a - b);
          const kept = order.slice(0, topK || values.length);
          const weights = kept.map(weight);
          const total = weights.reduce((sum, weight) => sum + weight, 0);
          let reached = 0;
          const allowed = new Set<number>();
          for (const [i, id] of kept.entries()) {
            // A hair's breadth of room: sums in another order round differently.
            if (reached / total > topP + 1e-9) break;
            allowed.add(id);
            reached += weights[i]!;
          }
          return draw({ temperature: 1, topK, topP, seed }, 5, values).every((id) => allowed.has(id));
        },
      ),
    );
  });

  it("survives extremes: tiny temperatures, huge and infinite logits", () => {
    expect(draw({ temperature: 1e-30 }, 5, [1e30, 1e30 * (1 - 1e-9), -1e30])).toEqual([0, 0, 0, 0, 0]);
    expect(draw({ temperature: 1 }, 3, [0, Infinity, -Infinity])).toEqual([1, 1, 1]);
    expect(draw({ temperature: 1e300 }, 30, [5, -Infinity]).every((id) => id === 0)).toBe(true);
  });

  it("names what is wrong with an option", () => {
    expect(() => createSampler({ temperature: -1 })).toThrow(
      "createSampler: expected temperature to be a number of at least 0, got -1",
    );
    expect(() => createSampler({ topP: 0 })).toThrow("expected topP to be a number above 0 and at most 1, got 0");
    expect(() => createSampler({ topK: 1.5 })).toThrow("expected topK to be an integer of at least 0, got 1.5");
    expect(() => createSampler({ seed: Number.NaN })).toThrow("createSampler: expected seed to be an integer");
  });
});
