import { expect, it } from "vitest";
import { type RopeScaling, ropeFrequencies, ropeTable } from "../../src/kernels/rope-tables.ts";

/** The sine of `position * theta^(-2 pair / dim)`, with the product taken exactly and reduced by a long pi, in BigInt. */
function exactSine(position: number, frequency: number): number {
  const SCALE = 10n ** 60n;
  const pi = 3141592653589793238462643383279502884197169399375105820974944n; // pi * 10^60
  // A double is an integer times a power of two: exact in BigInt.
  let power = 0;
  let mantissa = frequency;
  while (!Number.isInteger(mantissa)) {
    mantissa *= 2;
    power++;
  }
  const angle = (BigInt(position) * BigInt(mantissa) * SCALE) / 2n ** BigInt(power);
  const rest = angle % (2n * pi);
  return Math.sin(Number(rest) / 1e60);
}

it("stays exact for positions in the millions and billions", () => {
  const { frequencies } = ropeFrequencies({ type: "default", theta: 10_000 }, 64);
  for (const position of [0, 1, 4095, 1_000_003, 16_777_217, 2_000_000_011]) {
    const table = ropeTable({ type: "default", theta: 10_000 }, { rotaryDim: 64, positions: [position] });
    frequencies.forEach((frequency, i) => {
      expect(Math.abs(table[2 * i + 1]! - exactSine(position, frequency))).toBeLessThan(5e-7);
    });
  }
});

it("takes positions in any order, each token its own row", () => {
  const config: RopeScaling = { type: "default", theta: 500_000 };
  const table = ropeTable(config, { rotaryDim: 8, positions: [9, 2, 9, 100_000] });
  expect(table.length).toBe(4 * 8);
  expect(table.subarray(0, 8)).toEqual(table.subarray(16, 24));
  expect(table.subarray(8, 16)).toEqual(ropeTable(config, { rotaryDim: 8, positions: [2] }));
  expect(table[0]).toBe(Math.fround(Math.cos(9)));
  expect(table[1]).toBe(Math.fround(Math.sin(9)));
});

const list = (config: RopeScaling, dim: number, seqLen?: number) => [
  ...ropeFrequencies(config, dim, seqLen).frequencies,
];

it("linear divides every angle by the factor", () => {
  const plain = list({ type: "default", theta: 10_000 }, 16);
  expect(list({ type: "linear", theta: 10_000, factor: 4 }, 16)).toEqual(plain.map((f) => f / 4));
});

it("dynamic NTK is plain up to the original length and then stretches theta", () => {
  const config: RopeScaling = { type: "dynamic", theta: 10_000, factor: 2, originalMaxPositions: 100 };
  const plain = list({ type: "default", theta: 10_000 }, 16);
  expect(list(config, 16, 100)).toEqual(plain);
  const stretched = list(config, 16, 400);
  // theta * (2 * 400 / 100 - 1) ^ (16 / 14)
  const theta = 10_000 * 7 ** (16 / 14);
  stretched.forEach((f, i) => {
    expect(f).toBeCloseTo(theta ** (-i / 8), 12);
  });
  // Of the whole sequence, not of the chunk: unless told otherwise, the largest position + 1.
  const byPosition = ropeTable(config, { rotaryDim: 16, positions: [399] });
  expect(byPosition).toEqual(ropeTable(config, { rotaryDim: 16, positions: [399], seqLen: 400 }));
  expect(byPosition).not.toEqual(ropeTable(config, { rotaryDim: 16, positions: [399], seqLen: 800 }));
  expect(list(config, 2, 4000)).toEqual([1]);
});

it("llama3 keeps fast pairs, divides slow ones, and blends between (Llama 3.1's own numbers)", () => {
  const config: RopeScaling = {
    ...{ type: "llama3", theta: 500_000, factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 },
  };
  const plain = list({ type: "default", theta: 500_000 }, 128);
  const scaled = list(config, 128);
  let [kept, divided, blended] = [0, 0, 0];
  scaled.forEach((f, i) => {
    const wavelength = (2 * Math.PI) / plain[i]!;
    if (wavelength < 8192 / 4) kept += Number(f === plain[i]);
    else if (wavelength > 8192) divided += Number(f === plain[i]! / 8);
    else if (f > plain[i]! / 8 && f < plain[i]!) blended++;
  });
  expect(kept + divided + blended).toBe(64);
  expect([kept, divided, blended]).toEqual([29, 29, 6]);
});

it("yarn keeps fast pairs, interpolates slow ones, and multiplies cos and sin by the attention factor", () => {
  const config: RopeScaling = {
    ...{ type: "yarn", theta: 10_000, factor: 4, originalMaxPositions: 4096, betaFast: 32, betaSlow: 1 },
    ...{ truncate: true, attentionFactor: 0.1 * Math.log(4) + 1 },
  };
  const plain = list({ type: "default", theta: 10_000 }, 128);
  const scaled = list(config, 128);
  // By the paper's formula 128 ln(4096 / (2 pi turns)) / (2 ln 10000): pair 20.95 turns 32 times, pair 45.03 once.
  for (let i = 0; i <= 20; i++) expect(scaled[i]).toBe(plain[i]);
  for (let i = 46; i < 64; i++) expect(scaled[i]).toBe(plain[i]! / 4);
  const ramp = (33 - 20) / (46 - 20);
  expect(scaled[33]).toBeCloseTo(plain[33]! * (1 - ramp) + (plain[33]! / 4) * ramp, 12);
  const table = ropeTable(config, { rotaryDim: 128, positions: [0] });
  expect(table[0]).toBe(Math.fround(0.1 * Math.log(4) + 1));
  expect(table[1]).toBe(0);
  const exact = list({ ...config, truncate: false }, 128);
  expect(exact[33]).not.toBe(scaled[33]);
});

it("refuses odd dims, positions that are not integers, and numbers that are not positive", () => {
  const config: RopeScaling = { type: "default", theta: 10_000 };
  expect(() => ropeFrequencies(config, 7)).toThrow("expected rotaryDim to be even, got 7");
  expect(() => ropeTable(config, { rotaryDim: 8, positions: [0, -1] })).toThrow(
    "ropeTable: expected positions[1] to be an integer of at least 0, got -1",
  );
  expect(() => ropeTable(config, { rotaryDim: 8, positions: [0.5] })).toThrow("got 0.5");
  expect(() => ropeFrequencies({ type: "linear", theta: 10_000, factor: 0 }, 8)).toThrow(
    "expected factor to be a positive number, got 0",
  );
  expect(() => ropeFrequencies({ type: "longrope", theta: 1 } as never, 8)).toThrow("got longrope");
});
