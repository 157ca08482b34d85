/** The command line used wrongly: exit code 2, a sentence that says what was expected, and nothing on standard output. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { runCli } from "./cli-run.ts";

const WRONG: [args: string[], message: RegExp][] = [
  [["frobnicate"], /unknown command 'frobnicate'/],
  [["generate", "--bogus"], /unknown option '--bogus'/],
  [["generate"], /expected one of --prompt, --prompt-file and --prompt-ids/],
  [["generate", "--prompt", "a", "--prompt-ids", "1"], /cannot be used with/],
  [["generate", "--prompt", "a", "--prompt-file", "b"], /cannot be used with/],
  [["generate", "--prompt-ids", "1,x"], /Expected token ids as 1,2,3, got "1,x"/],
  [["generate", "--prompt-file", "/nowhere/at/all"], /--prompt-file \/nowhere\/at\/all/],
  [["generate", "--prompt", "", "--no-bos"], /empty prompt needs BOS/],
  [["generate", "--prompt", "a", "--world-size", "65"], /Expected an integer from 1 to 64, got "65"/],
  [["generate", "--prompt", "a", "--max-new-tokens", "1.5"], /Expected an integer of at least 1, got "1.5"/],
  [["generate", "--prompt", "a", "--temperature", "warm"], /Expected a number of at least 0, got "warm"/],
  [["generate", "--prompt", "a", "--top-p", "0"], /from 0 to 1, got "0"/],
  [["generate", "--prompt", "a", "--layout", "round"], /Allowed choices are contiguous, zigzag, striped/],
  [["generate", "--prompt", "a", "--attention", "linear"], /Allowed choices are vanilla, flash, blockwise, ring/],
  [["generate", "--prompt", "a", "--model", "/nowhere"], /no such folder, and neither a URL nor a Hugging Face id/],
  [["generate", "--prompt", "a", "--adapter", "voodoo"], /swiftshader and default; other names need --runtime node/],
  [["generate", "--prompt", "a", "--peers", "0"], /Expected an integer from 1 to 64, got "0"/],
  [
    ["generate", "--prompt", "a", "--peers", "2", "--link", "wire"],
    /Allowed choices are worker, tab, browser, webrtc, node/,
  ],
  [["generate", "--prompt", "a", "--link", "tab"], /--link is for a ring of peers; say --peers N too/],
  [["generate", "--prompt", "a", "--peers", "2", "--kv", "host"], /their blocks live in GPU memory/],
  [["generate", "--prompt", "a", "--peers", "2", "--world-size", "2"], /--peers says how many ranks there are/],
  [["generate", "--prompt", "a", "--peers", "2", "--attention", "flash"], /does not run over peers; only ring does/],
  [["peer"], /required option '--join <link>' not specified/],
  [["peer", "--join", "http://localhost/"], /expected the whole link that the ring's maker sent/],
  [["demo", "--cert", "a.pem"], /expected --cert and --key together/],
  [["bench", "--case", "no-such-case"], /no such case/],
  [["bench", "--compare", "/nowhere.json"], /--compare \/nowhere.json/],
  [["demo", "--port", "70000"], /Expected an integer from 0 to 65535, got "70000"/],
];

describe("wrong usage", () => {
  it("ends with 2, says what was expected, and keeps standard output empty", async () => {
    // In turns of four: each is a Node process of its own.
    for (let start = 0; start < WRONG.length; start += 4)
      await Promise.all(
        WRONG.slice(start, start + 4).map(async ([args, message]) => {
          const { code, stdout, stderr } = await runCli(args);
          expect({ args, code, stdout }).toEqual({ args, code: 2, stdout: "" });
          expect(stderr, args.join(" ")).toMatch(message);
        }),
      );
  });

  it("is a JSON document with --json", async () => {
    const { code, stdout } = await runCli(["generate", "--json", "--prompt", "a", "--world-size", "0"]);
    expect(code).toBe(2);
    expect(JSON.parse(stdout).error.name).toBe("UsageError");
  });

  it("--compare refuses a file that is no result", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ringwise-compare-"));
    try {
      const file = join(folder, "result.json");
      writeFileSync(file, '{"some": "thing"}');
      const { code, stderr } = await runCli(["bench", "--case", "decode-1024", "--compare", file]);
      expect(code).toBe(2);
      expect(stderr).toMatch(/expected a result that "ringwise bench" wrote/);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("a Chrome that is not there is one sentence, and exit code 1", async () => {
    const env = { RINGWISE_CHROME: "/nowhere/chrome" };
    const { code, stderr } = await runCli(["generate", "--prompt", "a"], { env });
    expect(code).toBe(1);
    expect(stderr).toContain('RINGWISE_CHROME names "/nowhere/chrome", and no file is there');
  });
});

describe("help", () => {
  it("names the commands and the options of each", async () => {
    const [all, generate, bench] = await Promise.all([
      runCli(["--help"]),
      runCli(["generate", "--help"]),
      runCli(["bench", "--help"]),
    ]);
    expect([all.code, generate.code, bench.code]).toEqual([0, 0, 0]);
    for (const name of ["demo", "generate", "bench"]) expect(all.stdout).toContain(name);
    for (const option of ["--model", "--prompt-file", "--prompt-ids", "--max-new-tokens", "--kv", "--no-bos", "--json"])
      expect(generate.stdout).toContain(option);
    for (const option of ["--case", "--list", "--adapter", "--compare", "--runtime"])
      expect(bench.stdout).toContain(option);
  });

  it("bench --list names the cases, as text and as JSON", async () => {
    const [text, json] = await Promise.all([runCli(["bench", "--list"]), runCli(["bench", "--list", "--json"])]);
    expect(JSON.parse(json.stdout)).toEqual(text.stdout.trim().split("\n"));
    expect(text.stdout).toMatch(/^prefill-1024-causal$/m);
  });
});
