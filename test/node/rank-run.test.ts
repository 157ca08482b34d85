/** What a run over peers shares with a run on one page: the picker that can be taken over, pieces of text. Pure. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ModelFormatError, OptionError } from "../../src/errors.ts";
import { AnswerPieces } from "../../src/model/answer-pieces.ts";
import { createSampler } from "../../src/model/sampling.ts";
import { createHostPicker } from "../../src/model/token-picker.ts";
import { addRanges, areSameTokens, mergeRanges, withoutRanges } from "../../src/model/token-ranges.ts";

const vocabSize = 40;
const logitsArb = fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: vocabSize, maxLength: vocabSize });

describe("createHostPicker", () => {
  it("goes on token for token after any number of draws, greedily and sampled", () => {
    const options = fc.record({
      temperature: fc.constantFrom(0, 0.3, 1.5),
      topP: fc.constantFrom(1, 0.7),
      topK: fc.constantFrom(0, 5),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(options, fc.array(logitsArb, { minLength: 1, maxLength: 6 }), fc.nat(), (choice, rows, at) => {
        const logits = rows.map((row) => Float32Array.from(row));
        const whole = createHostPicker(choice);
        const tokens = logits.map((row) => whole.pick(row));
        const split = at % (logits.length + 1);
        const later = createHostPicker(choice);
        later.skip(split);
        expect(later.draws).toBe(split);
        expect(logits.slice(split).map((row) => later.pick(row))).toEqual(tokens.slice(split));
        expect(later.draws).toBe(logits.length);
        const sampler = createSampler(choice);
        expect(logits.map((row) => sampler.sample(row))).toEqual(tokens);
      }),
      { numRuns: 50 },
    );
  });

  it("refuses NaN wherever it stands", () => {
    const logits = Float32Array.from({ length: vocabSize }, () => 1);
    logits[17] = Number.NaN;
    for (const temperature of [0, 1]) {
      const picker = createHostPicker({ temperature, topP: 1, topK: 0, seed: 0 });
      expect(() => picker.pick(logits)).toThrow(ModelFormatError);
      expect(picker.draws).toBe(0);
    }
  });
});

describe("AnswerPieces", () => {
  /** Ids below 0 begin a character that the next id from 0 on completes. */
  const stream = () => {
    let rest = "";
    return {
      push(id: number) {
        if (id < 0) {
          rest += "?";
          return "";
        }
        const text = rest === "" ? `${id}` : `(${rest}${id})`;
        rest = "";
        return text;
      },
      get hasRest() {
        return rest !== "";
      },
      end() {
        const text = rest;
        rest = "";
        return text;
      },
    };
  };

  it("holds a piece back while a character is incomplete, and gives it with the next", () => {
    const pieces = new AnswerPieces(stream());
    expect(pieces.push(1, false)).toEqual([{ tokenId: 1, text: "1" }]);
    expect(pieces.push(-1, false)).toEqual([]);
    expect(pieces.push(2, false)).toEqual([
      { tokenId: -1, text: "" },
      { tokenId: 2, text: "(?2)" },
    ]);
    expect(pieces.push(-2, true)).toEqual([{ tokenId: -2, text: "?" }]);
  });

  it("shows what was held back when a stop id comes, once", () => {
    const pieces = new AnswerPieces(stream());
    expect(pieces.push(-1, false)).toEqual([]);
    expect(pieces.stop()).toEqual([{ tokenId: -1, text: "?" }]);
    expect(pieces.stop()).toEqual([]);
  });

  it("has no text without a tokenizer", () => {
    expect(new AnswerPieces(undefined).push(7, false)).toEqual([{ tokenId: 7, text: "" }]);
  });
});

describe("sets of positions", () => {
  const rangesOf = (positions: readonly number[]) => positions.map((start) => ({ start, stride: 1, count: 1 }));
  const positionsOf = (ranges: readonly { start: number; stride: number; count: number }[]) =>
    ranges.flatMap(({ start, stride, count }) => Array.from({ length: count }, (_, i) => start + i * stride));

  it("merges, takes away and compares as sets do", () => {
    const set = fc.uniqueArray(fc.nat(60), { maxLength: 40 });
    fc.assert(
      fc.property(set, set, (a, b) => {
        const others = b.filter((position) => !a.includes(position));
        const both = [...a, ...others].sort((x, y) => x - y);
        expect(positionsOf(mergeRanges("test", rangesOf(a), rangesOf(others)))).toEqual(both);
        const [low, high] = [both.filter((at) => at < 30), both.filter((at) => at >= 30)];
        const lists = [low, high].map((part) => mergeRanges("test", rangesOf(part)));
        expect(positionsOf(addRanges("test", lists[0]!, lists[1]!))).toEqual(both);
        expect(
          positionsOf(addRanges("test", mergeRanges("test", rangesOf(a)), mergeRanges("test", rangesOf(others)))),
        ).toEqual(both);
        const left = both.filter((position) => !a.includes(position));
        expect(positionsOf(withoutRanges("test", rangesOf(both), rangesOf(a)))).toEqual(left);
        expect(areSameTokens("test", rangesOf(both), rangesOf([...others, ...a]))).toBe(true);
        expect(areSameTokens("test", rangesOf(a), rangesOf(both))).toBe(others.length === 0);
      }),
    );
  });

  it("refuses a position that comes twice", () => {
    expect(() => mergeRanges("test", rangesOf([1, 2]), rangesOf([2]))).toThrow(OptionError);
  });
});
