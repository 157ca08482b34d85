/** BENCHMARKS.md and the kernels' own lines: made from documents alone, and those in the tree are what the recorded ones give. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { documentMarkdown } from "../../bench/benchmarks/document-markdown.ts";
import { duelsOf, readDocuments, sectionsOf } from "../../bench/benchmarks/documents.ts";
import { drawSvg } from "../../bench/benchmarks/draw.ts";
import { figure } from "../../bench/benchmarks/format.ts";
import { benchLine, benchLineOf, withBenchLine } from "../../bench/benchmarks/kernel-lines.ts";
import { benchmarksMarkdown } from "../../bench/benchmarks/markdown.ts";
import { plotsOf } from "../../bench/benchmarks/plot-specs.ts";
import type { BenchDocument, BenchResult, Contender } from "../../bench/result-types.ts";
import { writeReport } from "../../src/cli/bench-report.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

const row = (name: string, timeMs: number | undefined, over: Partial<BenchResult> = {}): BenchResult => ({
  ...{ case: name, group: "attention", implementation: "flash", dtype: "f32", status: "ok" },
  ...(timeMs && { timeMs: { median: timeMs, min: 0.9 * timeMs, spread: 0.02, samples: [timeMs] } }),
  ...{ seqLen: Number(/\d+/.exec(name)?.[0] ?? 1), tensorBytes: 2 ** 20, peakBytes: 2 ** 20 },
  ...over,
});
const peer = (contender: Contender, name: string, timeMs: number | undefined, over: Partial<BenchResult> = {}) =>
  row(name, timeMs, { contender, implementation: `by ${contender}`, peakBytes: 5 * 2 ** 20, ...over });
const document = (results: BenchResult[], over: Partial<BenchDocument> = {}): BenchDocument => ({
  ...{ ringwise: "0.1.0", date: "2026-01-02T03:04:05.000Z", runtime: "chrome", host: "Chrome/1", machine: "2 x m" },
  ...{
    adapter: "google / swiftshader",
    command: "ringwise bench --name x",
    versions: { tfjs: "4.22.0" },
    results,
    ...over,
  },
});

const AGAINST = document([
  row("prefill-1024", 10, { peakShare: 0.6 }),
  peer("tfjs", "prefill-1024", 100),
  // Faster than all, and wrong: no peer to be measured by.
  peer("jax-js", "prefill-1024", 1, { status: "wrong", reason: "The output is all zeros | without an error." }),
  row("prefill-2048", 50, { peakShare: 0.5 }),
  peer("tfjs", "prefill-2048", 100),
  peer("jax-js", "prefill-2048", undefined, { status: "failed", reason: "It threw." }),
]);
const ALONE = document(
  [
    row("prefill-1024", 12, { peakShare: 0.5, gflops: 20, kernels: ["attention.wgsl"] }),
    row("prefill-2048", 48, { peakShare: 0.56, gflops: 22, kernels: ["attention.wgsl"] }),
    row("decode-4096", 4, { bandwidthShare: 0.8, readGBps: 2.5, kernels: ["attention-few.wgsl", "finalize.wgsl"] }),
    row("kernel-finalize", 3, { group: "bandwidth", bandwidthShare: 0.3, readGBps: 1, kernels: ["finalize.wgsl"] }),
  ],
  { date: "2026-01-01T00:00:00.000Z" },
);
const RECORDED = [
  { file: "against.json", document: AGAINST },
  { file: "alone.json", document: ALONE },
];

it("numbers keep three digits that count", () => {
  expect([0.00012345, 0.5, 1, 12.34, 123.4, 12345.6].map((value) => figure(value))).toEqual([
    "0.000123",
    "0.5",
    "1",
    "12.3",
    "123",
    "12,346",
  ]);
});

describe("documents", () => {
  it("the fastest correct peer is the yardstick; what is wrong takes no part", () => {
    expect(duelsOf(AGAINST.results)).toMatchObject([
      { case: "prefill-1024", peer: { contender: "tfjs" }, timesFaster: 10 },
      { case: "prefill-2048", peer: { contender: "tfjs" }, timesFaster: 2 },
    ]);
  });

  it("our own rows come from runs without peers, and newer rows replace older ones", () => {
    const [section] = sectionsOf(RECORDED);
    expect(section).toMatchObject({ title: "SwiftShader in Chrome", slug: "swiftshader-chrome", isCpu: true });
    expect(section!.own.find(({ case: name }) => name === "prefill-1024")?.timeMs?.median).toBe(12);
    const newer = document([row("prefill-1024", 7)], { date: "2026-02-01T00:00:00.000Z" });
    const [both] = sectionsOf([...RECORDED, { file: "newer.json", document: newer }]);
    expect(both!.own.filter(({ case: name }) => name === "prefill-1024")).toMatchObject([{ timeMs: { median: 7 } }]);
    expect(both!.documents.map(({ file }) => file)).toEqual(["newer.json", "against.json", "alone.json"]);
  });
});

describe("the page", () => {
  const { text, plots } = benchmarksMarkdown(RECORDED);

  it("tells times, ratios, memory, failures with their reasons, commands and versions", () => {
    expect(text).toContain("| prefill-1024 | 10 | 100 | wrong | tfjs | 10x | 10x |");
    expect(text).toContain("| prefill-2048 | 50 | 100 | failed | tfjs | 2x | 2x |");
    expect(text).toContain("| prefill-1024 | 1 | 1 | 1.00x | 5 | wrong |");
    expect(text).toContain("- jax-js, wrong: The output is all zeros | without an error. (prefill-1024)");
    expect(text).toContain("```sh\nringwise bench --name x\n```");
    expect(text).toContain("tfjs 4.22.0");
  });

  it("shows what misses its target", () => {
    expect(text).toMatch(/Prefill at least 3x .* \| reached in 1 of 6 \| prefill-1024: 10x; \*\*prefill-2048: 2x\*\*/);
    expect(text).toMatch(/at least 55% of the FMA peak .* \*\*prefill-1024: 50%\*\*; prefill-2048: 56%/);
    expect(text).toMatch(/Prefill at least 3x .* \*\*prefill-4096: not measured\*\*/);
    expect(text).toMatch(/Matmul, 1024 cubed.* \| not measured \|/);
  });

  it("names plots that are drawn, for light and for dark pages", async () => {
    expect(plots.map(({ name }) => name)).toEqual(
      ["time", "share", "memory"].map((kind) => `swiftshader-chrome-${kind}`),
    );
    for (const { name } of plots) expect(text).toContain(`bench/plots/${name}-dark.svg`);
    const svg = await drawSvg(plots[0]!, "dark");
    expect(svg).toMatch(/^<svg [\s\S]*tfjs[\s\S]*<\/svg>\n$/);
    expect(svg).not.toContain("NaN");
    // Wrong results are no points.
    expect(svg).not.toContain("jax-js");
  });

  it("of one document alone has no plots", () => {
    const alone = documentMarkdown(ALONE);
    expect(alone).toContain("| prefill-2048 | attention | 48 |");
    expect(alone).not.toContain("<picture>");
    expect(plotsOf(sectionsOf([{ file: "x", document: document([row("prefill-1024", 1)]) }])[0]!)).toEqual([]);
  });
});

describe("a kernel's line", () => {
  const sections = sectionsOf(RECORDED);

  it("tells the case that tells most of it, or that nothing was measured", () => {
    expect(benchLine("attention.wgsl", sections)).toBe(
      "// Bench: SwiftShader in Chrome: prefill-1024 f32 12 ms, 20 GFLOP/s (50% of FMA peak).",
    );
    expect(benchLine("attention-few.wgsl", sections)).toContain(
      "decode-4096 f32 4 ms, 2.5 GB/s (80% of read bandwidth)",
    );
    expect(benchLine("finalize.wgsl", sections)).toContain("kernel-finalize f32 3 ms");
    expect(benchLine("rope.wgsl", sections)).toBe("// Bench: not measured.");
  });

  it("goes to the end of the opening comment, and later into its own place", () => {
    const text = "// What it computes.\n// Tiling.\n\nconst A: u32 = 1u;\n// not the header\n";
    const once = withBenchLine(text, "// Bench: 1.");
    expect(once).toBe("// What it computes.\n// Tiling.\n// Bench: 1.\n\nconst A: u32 = 1u;\n// not the header\n");
    expect(withBenchLine(once, "// Bench: $& 2.")).toBe(once.replace("1.", () => "$& 2."));
    expect(benchLineOf(once)).toBe("// Bench: 1.");
  });
});

it("--report writes page, plots and kernel lines, nothing twice, and takes away plots of results that are gone", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ringwise-report-"));
  try {
    const [results, shaders, plots] = ["bench/results", "shaders", "bench/plots"].map((name) => join(folder, name));
    for (const name of [results!, shaders!, plots!]) mkdirSync(name, { recursive: true });
    for (const { file, document } of RECORDED) writeFileSync(join(results!, file), JSON.stringify(document));
    // What nobody named, and what is no bench document, is not recorded.
    writeFileSync(join(results!, "2026-01-01T00-00-00-x.json"), JSON.stringify(document([row("prefill-1024", 1)])));
    writeFileSync(join(results!, "faults.json"), JSON.stringify({ faults: [] }));
    writeFileSync(join(plots!, "gone-light.svg"), "<svg/>");
    const kernel = join(shaders!, "attention.wgsl");
    writeFileSync(kernel, "// What it computes.\n\nconst A: u32 = 1u;\n");
    const said: unknown[] = [];
    const terminal = { progress() {}, log() {}, write() {}, result: (told: unknown) => void said.push(told) };
    await writeReport(results!, folder, terminal);
    expect(readFileSync(join(folder, "BENCHMARKS.md"), "utf8")).toBe(benchmarksMarkdown(readDocuments(results!)).text);
    expect(readdirSync(plots!)).toHaveLength(6);
    expect(readFileSync(kernel, "utf8")).toMatch(
      /^\/\/ What it computes.\n\/\/ Bench: SwiftShader in Chrome: prefill-1024 /,
    );
    await writeReport(results!, folder, terminal);
    expect(said).toMatchObject([
      { documents: ["against.json", "alone.json"], kernels: ["attention.wgsl"] },
      { kernels: [] },
    ]);
    await expect(writeReport(shaders!, folder, terminal)).rejects.toThrow(/--report: expected results .* found none/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

describe("what lies in the tree", () => {
  const recorded = readDocuments(join(root, "bench/results"));
  const remedy = 'run "npm run bench -- --report"';

  it("BENCHMARKS.md is what the recorded results give, with every plot", () => {
    const { text, plots } = benchmarksMarkdown(recorded);
    expect(readFileSync(join(root, "BENCHMARKS.md"), "utf8") === text, `BENCHMARKS.md is old: ${remedy}`).toBe(true);
    for (const { name } of plots)
      for (const theme of ["light", "dark"])
        expect(existsSync(join(root, `bench/plots/${name}-${theme}.svg`)), `${name}-${theme}.svg: ${remedy}`).toBe(
          true,
        );
  });

  it("every kernel file carries its own line of them", () => {
    const sections = sectionsOf(recorded);
    const kernels = readdirSync(join(root, "shaders")).filter((file) => file.endsWith(".wgsl"));
    expect(kernels.length).toBeGreaterThan(10);
    for (const file of kernels)
      expect(benchLineOf(readFileSync(join(root, "shaders", file), "utf8")), `${file}: ${remedy}`).toBe(
        benchLine(file, sections),
      );
  });
});
