/** The default text: exact length, the needle where it was asked for, the same at every run. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/errors.ts";
import { needleText } from "../../src/model/needle-text.ts";

const options = fc.record({
  length: fc.integer({ min: 256, max: 6000 }),
  depth: fc.integer({ min: 0, max: 100 }),
  seed: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
});

describe("needleText", () => {
  it("has exactly the length asked for, in ASCII, with the needle once and at its depth", () => {
    fc.assert(
      fc.property(options, (asked) => {
        const { text, question, answer, needle } = needleText(asked);
        expect((text + question).length).toBe(asked.length);
        expect(text + question).toMatch(/^[\n -~]*$/);
        const room = text.length - needle.length;
        expect(text.indexOf(needle)).toBe(Math.round((room * asked.depth) / 100));
        const stem = question.split("\n").at(-1)!;
        expect(needle).toBe(`${stem}${answer}\n`);
        // The 16 characters that the default model goes by stand nowhere else.
        expect(text.split(stem.slice(-16)).length).toBe(2);
        expect(needleText(asked)).toEqual(needleText(asked));
      }),
      { numRuns: 300 },
    );
  });

  it("writes another log and needle for another seed", () => {
    const [one, two] = [
      needleText({ length: 800, depth: 50, seed: 1 }),
      needleText({ length: 800, depth: 50, seed: 2 }),
    ];
    expect(one.text).not.toBe(two.text);
    expect(one.answer).not.toBe(two.answer);
  });

  it("refuses what it cannot write", () => {
    expect(() => needleText({ length: 255, depth: 0 })).toThrow(OptionError);
    expect(() => needleText({ length: 255, depth: 0 })).toThrow(
      "needleText: expected length to be an integer of at least 256, got 255",
    );
    expect(() => needleText({ length: 1000, depth: 101 })).toThrow(
      "needleText: expected depth to be a number from 0 to 100, got 101",
    );
    expect(() => needleText({ length: 1000, depth: 50, seed: -1 })).toThrow(OptionError);
  });
});
