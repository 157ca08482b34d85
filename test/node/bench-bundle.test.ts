/** The bench bundle without a device: what its binaries need, its limit of size, torch as a process, rows and the page. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mergeBlocks } from "../../bench/bundle/blocks.ts";
import { type ConformanceResult, runConformance } from "../../bench/bundle/conformance.ts";
import { bundleMarkdown, torchRatios } from "../../bench/bundle/markdown.ts";
import { readOptions } from "../../bench/bundle/options.ts";
import { startTorch, torchFailure, torchResult } from "../../bench/bundle/torch.ts";
import type { BenchDocument, BenchResult } from "../../bench/result-types.ts";
import { summarize } from "../../bench/statistics.ts";
import { BUNDLE_LIMIT_BYTES, expectUnderLimit, listFiles } from "../../scripts/bench-bundle/contents.ts";
import { compareVersions, mergeVersions, readElfNeeds } from "../../scripts/bench-bundle/elf.ts";
import { TEST_CASES } from "../cases.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ringwise-bundle-test-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("what a binary needs", () => {
  it("compares versions as numbers, and keeps the highest of each family", () => {
    expect(compareVersions("2.34", "2.4")).toBeGreaterThan(0);
    expect(compareVersions("3.4", "3.4.30")).toBeLessThan(0);
    expect(compareVersions("2.28", "2.28")).toBe(0);
    expect(mergeVersions([{ GLIBC: "2.28", GLIBCXX: "3.4.9" }, { GLIBC: "2.4" }, { GLIBCXX: "3.4.30" }])).toEqual({
      GLIBC: "2.28",
      GLIBCXX: "3.4.30",
    });
  });

  it.runIf(process.platform === "linux" && process.arch === "x64")("reads it from the Node that runs this", () => {
    const needs = readElfNeeds(readFileSync(process.execPath));
    expect(needs.libraries).toContain("libc.so.6");
    expect(needs.versions.GLIBC).toMatch(/^2\.\d+$/);
  });

  it("refuses what is no ELF file, and other processors", () => {
    expect(() => readElfNeeds(new Uint8Array(64))).toThrow("expected a 64-bit little-endian ELF file");
    const arm = new Uint8Array(64);
    arm.set([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
    arm[18] = 183;
    expect(() => readElfNeeds(arm)).toThrow("expected machine 62 (x86-64), got machine 183");
  });
});

describe("what lies in a bundle", () => {
  it("lists files with sizes and hashes, sorted", () => {
    const place = mkdtempSync(join(folder, "files-"));
    writeFileSync(join(place, "b"), "two");
    writeFileSync(join(place, "a"), "");
    const files = listFiles(place);
    expect(files.map(({ path, byteLength }) => [path, byteLength])).toEqual([
      ["a", 0],
      ["b", 3],
    ]);
    expect(files[0]!.sha256).toBe("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  });

  it("is held to 60 MiB in all, and names what is largest", () => {
    const half = BUNDLE_LIMIT_BYTES / 2;
    expect(expectUnderLimit([half, half].map((byteLength, index) => ({ path: `${index}`, byteLength })))).toBe(
      60 * 2 ** 20,
    );
    const files = [1, half, half].map((byteLength, index) => ({ path: `file-${index}`, byteLength }));
    expect(() => expectUnderLimit(files)).toThrow(
      "expected at most 60.0 MiB, got 60.0 MiB; the largest are file-1 (30.0 MiB)",
    );
  });
});

describe("./start's options", () => {
  it("reads them, and says what is no option", () => {
    expect(readOptions(["--quick", "--adapter", "lavapipe", "--case", "a", "--case", "b"], "/out")).toMatchObject({
      ...{ isQuick: true, onlyCorrectness: false, adapter: "lavapipe", cases: ["a", "b"] },
      ...{ out: "/out", minutes: 8, python: "python3", withTorch: true },
    });
    expect(readOptions(["--help"], "/out")).toBeUndefined();
    expect(() => readOptions(["--fast"], "/out")).toThrow("Unknown option '--fast'");
    expect(() => readOptions(["--minutes", "soon"], "/out")).toThrow("--minutes soon: expected a number above 0");
  });
});

it("checks that were not begun in time are told, not left out", async () => {
  const cases = TEST_CASES.slice(0, 2);
  const results = await runConformance({} as GPUDevice, {
    ...{ cases, dtypes: ["f32", "f16"], deadlineMs: 0, concurrency: 3, onProgress: () => {} },
    implementations: [
      { name: "all", options: {} },
      { name: "one", options: {}, concerns: ({ name }) => name === cases[0]!.name },
    ],
  });
  expect(results.map(({ status }) => status)).toEqual(Array(6).fill("not run"));
  expect(results.filter(({ implementation }) => implementation === "one").map(({ dtype }) => dtype)).toEqual([
    "f32",
    "f16",
  ]);
});

const row = (samples: number[], rest: Partial<BenchResult> = {}): BenchResult => ({
  ...{ case: "uneven", group: "attention", implementation: "flash", timeMs: summarize(samples), ...rest },
});

describe("blocks of one case", () => {
  it("become one row: all samples, rates of the common median, the largest error", () => {
    const merged = mergeBlocks([
      row([2, 2, 2], { gflops: 10, fmaPeakGflops: 40, readGBps: 6, readPeakGBps: 10, maxError: 1e-7 }),
      row([4, 4, 4, 4], { gflops: 5, fmaPeakGflops: 60, readGBps: 3, readPeakGBps: 14, maxError: 3e-7 }),
    ]);
    expect(merged.timeMs!.samples).toHaveLength(7);
    expect(merged).toMatchObject({ gflops: 5, fmaPeakGflops: 50, peakShare: 0.1, readGBps: 3, bandwidthShare: 0.25 });
    expect(merged.maxError).toBe(3e-7);
  });

  it("stay wrong where one of them is, and NaN is the largest error", () => {
    const merged = mergeBlocks([
      row([1], { maxError: 1e-7 }),
      row([1], { maxError: Number.NaN, status: "wrong", reason: "NaN" }),
    ]);
    expect(merged).toMatchObject({ status: "wrong", reason: "NaN", maxError: Number.NaN });
    expect(() => mergeBlocks([])).toThrow("expected at least one block");
  });
});

describe("torch as a process", () => {
  const shape = TEST_CASES.find(({ name }) => name === "uneven")!;
  const script = (name: string, text: string) => {
    const file = join(folder, name);
    writeFileSync(file, text);
    return file;
  };

  it("is told missing in words: no interpreter, no torch, a process that dies", async () => {
    expect(await startTorch("x", "no-such-python")).toBe("there is no no-such-python on this machine");
    const without = script("without.sh", `echo '{"ok": false, "reason": "import torch: none"}'`);
    expect(await startTorch(without, "sh")).toBe("import torch: none");
    expect(await startTorch(script("dies.sh", "echo broken >&2; exit 3"), "sh")).toBe("python3 ended with 3: broken");
  });

  it("is believed only within the oracle's word, and its own errors become rows", async () => {
    // A torch whose output is all zeros: 2 x 24 rows of 3 heads x 16 numbers of 4 bytes.
    const zeros = script(
      "zeros.sh",
      `echo 'a library speaks'
      echo '{"ok": true, "torch": "0.0", "cuda": null, "device": "a shell"}'
      while read -r line; do
        case $line in
          *'"f16"'*) echo '{"ok": false, "reason": "no f16 in a shell"}' ;;
          *prepare*)
            head -c ${2 * 24 * 3 * 16 * 4} /dev/zero > "$(printf '%s' "$line" | sed 's/.*"output":"\\([^"]*\\)".*/\\1/')"
            echo '{"ok": true, "backend": "math", "ownChoice": "flash", "trialMs": {"math": 2}}' ;;
          *measure*) echo '{"ok": true, "samples": [2, 4]}' ;;
          *) echo '{"ok": true}' ;;
        esac
      done`,
    );
    const torch = await startTorch(zeros, "sh");
    if (typeof torch === "string") throw new Error(torch);
    try {
      expect(torch).toMatchObject({ version: "0.0", cuda: undefined, device: "a shell" });
      const prepared = await torch.prepare(shape, "f32", 1);
      const result = torchResult(shape, "f32", prepared, await prepared.measure(2, 0));
      expect(result).toMatchObject({
        ...{ status: "wrong", reason: "The output is all zeros, without an error.", contender: "torch" },
        ...{ implementation: "SDPA, math (own choice: flash)", errorRows: 48 },
      });
      expect(result.timeMs!.median).toBe(3);
      expect(result.maxError).toBeGreaterThan(0.1);
      await expect(torch.prepare(shape, "f16", 1)).rejects.toThrow("no f16 in a shell");
    } finally {
      torch.close();
    }
  });

  it("gives a ratio only where both sides are right, against our fastest right row", () => {
    const torch = row([6], { contender: "torch", implementation: "SDPA, flash" });
    const slower = row([5], { implementation: "vanilla" });
    const ours = row([2]);
    const wrong = row([1], { implementation: "tile", status: "wrong" });
    expect(torchRatios([slower, wrong, ours, torch])).toMatchObject([{ case: "uneven", dtype: "f32", ours, ratio: 3 }]);
    expect(torchRatios([wrong, torch])[0]!.ratio).toBeUndefined();
    expect(torchRatios([ours, torchFailure(shape, "f32", "no")])[0]!.ratio).toBeUndefined();
    // No row of ours in that type: nothing to compare.
    expect(torchRatios([ours, { ...torch, dtype: "f16" }])).toEqual([]);
  });
});

it("the page names what is wrong, what was left out, and the ratio", () => {
  const correctness: ConformanceResult[] = [
    { case: "uneven", dtype: "f32", implementation: "candidate a", status: "ok", maxError: 2e-7 },
    {
      case: "gqa",
      dtype: "f32",
      implementation: "candidate a",
      status: "wrong",
      reason: "output[3]: error 1",
      maxError: 1,
    },
    { case: "gqa", dtype: "f16", implementation: "candidate a", status: "not run" },
  ];
  const results = [row([2]), row([6], { contender: "torch", implementation: "SDPA, flash | cudnn" })];
  const document = { adapter: "a GPU", command: "./start --quick", results } as unknown as BenchDocument;
  const text = bundleMarkdown({ document, correctness, notes: ["Time was up."] }, "## tables");
  expect(text).toContain("# Ringwise on a GPU\n\n`./start --quick`\n\n- Time was up.\n\n## Correctness");
  expect(text).toMatch(/\| candidate a \| f32 \| 1 \| 1 \| 0 \| 0 \| 2.0e-7 \|/);
  expect(text).toMatch(/\| candidate a \| f16 \| 0 \| 0 \| 0 \| 1 \| {2}\|/);
  expect(text).toContain("- **wrong**: gqa, f32, candidate a: output[3]: error 1");
  expect(text).toContain("SDPA, flash \\| cudnn | 2 | 6 | 3x |");
  expect(text.endsWith("\n\n## tables\n")).toBe(true);
});
