/** Loops and arrays that specialize() writes out. */
import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/errors.ts";
import { specialize } from "../../src/gpu/specialize.ts";
import { unroll } from "../../src/gpu/unroll.ts";

const squeeze = (text: string) => text.replace(/\s+/g, " ").trim();

describe("unroll", () => {
  it("writes a loop out, each copy in braces, with the literal in place of the variable", () => {
    const source = "const N: u32 = 3u;\nfor (var i = 0u; i < N; i++) { // unrolled\n  sum += x[i] * side;\n}\nend();";
    expect(squeeze(unroll(source))).toBe(
      "const N: u32 = 3u; { sum += x[0u] * side; } { sum += x[1u] * side; } { sum += x[2u] * side; } end();",
    );
  });

  it("writes out loops inside loops, with bounds made of other constants", () => {
    const source = [
      "const D: u32 = 16u;",
      "const LANES: u32 = D / 4u - (1u + 1u);",
      "for (var a = 0u; a < LANES; a++) { // unrolled",
      "for (var b = 0u; b < 2u; b++) { // unrolled",
      "f(a, b);",
      "}",
      "}",
    ].join("\n");
    const calls = [...unroll(source).matchAll(/f\((\d)u, (\d)u\)/g)].map(([, a, b]) => `${a}${b}`);
    expect(calls).toEqual(["00", "01", "10", "11"]);
  });

  it("makes variables of an array, within its block only", () => {
    const source = [
      "const N: u32 = 2u;",
      "fn other(kept: vec4<f32>) -> f32 { return kept[0u]; }",
      "fn main() {",
      "var kept: array<vec4<f32>, N>; // unrolled",
      "for (var i = 0u; i < N; i++) { // unrolled",
      "kept[N - 1u - i] = vec4<f32>(f32(i));",
      "}",
      "}",
    ].join("\n");
    const text = squeeze(unroll(source));
    expect(text).toContain("return kept[0u];");
    expect(text).toContain("var kept_0: vec4<f32>; var kept_1: vec4<f32>;");
    expect(text).toContain("{ kept_1 = vec4<f32>(f32(0u)); } { kept_0 = vec4<f32>(f32(1u)); }");
  });

  it("leaves other loops alone", () => {
    const source = "for (var i = 0u; i < 4u; i++) { // as it stands\n f(i);\n}";
    expect(unroll(source)).toBe(source);
  });

  it("counts with the knobs that specialize() has set", () => {
    const code = "const N: u32 = 1u;\nfn main() {\nfor (var i = 0u; i < N; i++) { // unrolled\nf(i);\n}\n}";
    expect(specialize({ file: "a.wgsl", code }, { N: 4 }).match(/f\(\du\)/g)).toHaveLength(4);
  });

  it.each([
    ["a bound that is no constant", "for (var i = 0u; i < n; i++) { // unrolled\n}", /made of|u32 constants, got "n"/],
    [
      "a bound that must be a mistake",
      "for (var i = 0u; i < 5000u; i++) { // unrolled\n}",
      /at most 4096 copies, got 5000u/,
    ],
    ["a block without an end", "for (var i = 0u; i < 2u; i++) { // unrolled\n", /no closing brace/],
    ["an index out of range", "{ var a: array<f32, 2u>; // unrolled\na[2u] = 1.0; }", /index of a below 2, got 2/],
    ["an index that is no constant", "{ var a: array<f32, 2u>; // unrolled\na[i] = 1.0; }", /u32 constants, got "i"/],
    [
      "constants that go round in a circle",
      "const N: u32 = N + 1u;\nfor (var i = 0u; i < N; i++) { // unrolled\n}",
      /u32 constants/,
    ],
  ])("%s is refused", (_name, source, message) => {
    expect(() => unroll(source)).toThrow(OptionError);
    expect(() => unroll(source)).toThrow(message);
  });
});
