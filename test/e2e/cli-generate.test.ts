/** `ringwise generate` on the trained model of ../shared: the published tokens, in Chrome and in Node. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runCli, startCli } from "./cli-run.ts";

const folder = `${__SHARED__}/models/stories260K`;
const isThere = existsSync(folder);
if (!isThere) console.warn(`SKIPPED: ${folder} is absent, so the command line is not tested on a trained model.`);

/** Processes that a process has started, where the system tells (Linux). */
const childrenOf = (pid: number): number[] => {
  const file = `/proc/${pid}/task/${pid}/children`;
  return existsSync(file) ? readFileSync(file, "utf8").trim().split(/\s+/).filter(Boolean).map(Number) : [];
};

const isRunning = (pid: number): boolean => {
  const file = `/proc/${pid}/stat`;
  // A dead process that nobody has waited for yet ("Z") runs no more.
  return existsSync(file) && !/\) Z /.test(readFileSync(file, "utf8"));
};

describe.skipIf(!isThere)("generate", () => {
  const golden = isThere ? JSON.parse(readFileSync(`${folder}/golden.json`, "utf8")) : { token_ids: [] };
  const expected = (count: number) => golden.token_ids.slice(1, 1 + count) as number[];
  const base = ["generate", "--model", folder, "--json"];

  it("equals the published output from BOS alone, and the document has every figure", async () => {
    const { code, stdout, stderr } = await runCli([...base, "--prompt", "", "--max-new-tokens", "48"]);
    expect(stderr).not.toContain("Error");
    expect(code).toBe(0);
    const document = JSON.parse(stdout);
    expect(document.tokenIds).toEqual(expected(48));
    expect(document.promptTokens).toBe(1);
    expect(document.text).toMatch(/^Once upon a time/);
    for (const name of ["prefillTokensPerSecond", "decodeTokensPerSecond", "timeToFirstTokenMs", "peakGpuBytes"])
      expect(document[name], name).toBeGreaterThan(0);
    expect(document.ring).toMatchObject({ worldSize: 1, layout: "zigzag", blockMemory: "gpu" });
    expect(document.ring.ranks).toHaveLength(1);
    // Progress went to standard error.
    expect(stderr).toMatch(/prefill|[Ll]oading|weights/);
  });

  it("streams text to standard output and figures to standard error, on a ring of 4 with blocks in host memory", async () => {
    const ring = ["--world-size", "4", "--layout", "striped", "--kv", "host"];
    const prompt = ["--prompt-ids", golden.token_ids.slice(0, 21).join(), "--max-new-tokens", "20"];
    const { code, stdout, stderr } = await runCli(["generate", "--model", folder, ...prompt, ...ring]);
    expect(code).toBe(0);
    expect(stdout.length).toBeGreaterThan(20);
    expect(stderr).toContain("ring of 4, striped, blocks in host memory");
    const json = await runCli([...base, ...prompt, ...ring]);
    const document = JSON.parse(json.stdout);
    expect(document.tokenIds).toEqual(golden.token_ids.slice(21, 41));
    expect(document.promptTokens).toBe(21);
    expect(document.text.trim()).toBe(stdout.trim());
    expect(document.ring.ranks).toHaveLength(4);
  });

  it("--runtime node gives the same tokens, or says in one sentence what is missing", async () => {
    const args = [...base, "--prompt", "", "--max-new-tokens", "40", "--runtime", "node", "--world-size", "2"];
    const { code, stdout, stderr } = await runCli(args);
    if (code === 2) expect(stderr).toMatch(/--runtime node needs the npm package "webgpu"/);
    else if (code === 1) expect(stderr).toMatch(/^UnsupportedDeviceError/m);
    else expect(JSON.parse(stdout).tokenIds).toEqual(expected(40));
  });

  it("a seed repeats a sampled run; --prompt-file reads a file", async () => {
    const scratch = mkdtempSync(join(tmpdir(), "ringwise-prompt-"));
    try {
      const file = join(scratch, "prompt.txt");
      writeFileSync(file, "Once upon a time, there was a");
      const args = [...base, "--prompt-file", file, "--max-new-tokens", "8", "--temperature", "0.9", "--top-p", "0.9"];
      const [first, second] = [await runCli([...args, "--seed", "7"]), await runCli([...args, "--seed", "7"])];
      expect(first.code).toBe(0);
      expect(JSON.parse(second.stdout).tokenIds).toEqual(JSON.parse(first.stdout).tokenIds);
      expect(JSON.parse(first.stdout).promptTokens).toBeGreaterThan(5);
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  });

  it("Ctrl-C ends it and its Chrome", async () => {
    const { child, outcome } = startCli(["generate", "--model", folder, "--prompt", "", "--max-new-tokens", "100000"]);
    await new Promise<void>((resolve) => child.stdout!.once("data", () => resolve()));
    const chromes = childrenOf(child.pid!);
    if (process.platform === "linux") expect(chromes.length).toBeGreaterThan(0);
    child.kill("SIGINT");
    expect((await outcome).code).toBe(130);
    await expect.poll(() => chromes.filter(isRunning), { timeout: 10_000 }).toEqual([]);
  });

  describe("a broken model", () => {
    let broken = "";
    beforeAll(() => {
      broken = mkdtempSync(join(tmpdir(), "ringwise-broken-"));
      writeFileSync(join(broken, "config.json"), '{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}');
    });
    afterAll(() => rmSync(broken, { recursive: true, force: true }));

    it("is refused by name with exit code 1, in the document too", async () => {
      const { code, stdout, stderr } = await runCli(["generate", "--model", broken, "--prompt", "a", "--json"]);
      expect(code).toBe(1);
      expect(JSON.parse(stdout).error.name).toBe("UnsupportedModelError");
      expect(stderr).toContain("UnsupportedModelError");
    });
  });
});

it("the default model answers an ordinary prompt", async () => {
  const { code, stdout } = await runCli([
    "generate",
    "--json",
    "--prompt",
    "abcdefghijklmnopqrstuvwxyz. abcdefghijklmnopq",
  ]);
  expect(code).toBe(0);
  // It copies what followed the same text before.
  expect(JSON.parse(stdout).text).toMatch(/^rstuvwxyz\. /);
});
