/** `ringwise bench` on one small case: the document, the report page, and the comparison with an earlier run. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BenchDocument } from "../../bench/result-types.ts";
import { launchChrome } from "../../src/cli/chrome.ts";
import { runCli } from "./cli-run.ts";

describe("bench", () => {
  let out = "";
  beforeAll(() => {
    out = mkdtempSync(join(tmpdir(), "ringwise-bench-"));
  });
  afterAll(() => rmSync(out, { recursive: true, force: true }));

  const quick = ["--repeats", "3", "--warmups", "1", "--min-sample-ms", "5"];

  it("measures time, share of the FMA peak, bytes and error, and writes result and report", async () => {
    const { code, stdout, stderr } = await runCli([
      ...["bench", "--case", "head-dim-64", "decode-1024", "--out", out, "--json"],
      ...quick,
    ]);
    expect(stderr).toContain("1/2 head-dim-64");
    expect(code).toBe(0);
    const document = JSON.parse(stdout) as BenchDocument;
    expect(document.adapter).not.toBe("");
    expect(document.results.map((result) => result.case)).toEqual(["head-dim-64", "decode-1024"]);
    for (const result of document.results) {
      expect(result.timeMs!.samples).toHaveLength(3);
      expect(result.timeMs!.min).toBeGreaterThan(0);
      expect(result.gflops).toBeGreaterThan(0);
      expect(result.peakShare).toBeGreaterThan(0);
      expect(result.peakShare).toBeLessThan(1.2);
      expect(result.maxError).toBeLessThan(1e-5);
      expect(result.errorRows).toBeGreaterThan(0);
      expect(result.extraBytes).toBeGreaterThanOrEqual(0);
      expect(result.status).toBe("ok");
      expect(result.kernels).toContainEqual(expect.stringMatching(/^attention.*\.wgsl$/));
    }
    const files = readdirSync(out);
    const json = files.find((file) => file.endsWith(".json"))!;
    expect(JSON.parse(readFileSync(join(out, json), "utf8"))).toEqual(document);

    const browser = await launchChrome();
    try {
      const page = await browser.newPage();
      const errors: string[] = [];
      page.on("pageerror", (error) => errors.push(String(error)));
      await page.goto(`file://${join(out, files.find((file) => file.endsWith(".html"))!)}`);
      expect(await page.$$eval("#plots canvas", (canvases) => canvases.length)).toBeGreaterThanOrEqual(2);
      expect(await page.$$eval("body > table > tbody > tr", (rows) => rows.length)).toBe(2);
      expect(errors).toEqual([]);
    } finally {
      await browser.close();
    }

    // An older run that was ten times as fast: a loss on any machine, whatever its noise.
    const older = {
      ...document,
      results: document.results.map((result) => ({ ...result, peakShare: 10 * result.peakShare! })),
    };
    const olderFile = join(out, "older.json");
    writeFileSync(olderFile, JSON.stringify(older));
    const compared = await runCli([
      ...["bench", "--case", "decode-1024", "--out", out, "--compare", olderFile],
      ...quick,
    ]);
    expect(compared.stdout).toMatch(/decode-1024 +f32 +flash +share of FMA peak .* slower \(LOSS\)/);
    expect(compared.code).toBe(1);
  });
});
