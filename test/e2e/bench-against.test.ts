/** `ringwise bench --against` on tiny cases, with the real peers where bench/peers has them installed. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BenchDocument } from "../../bench/result-types.ts";
import { ROOT, runCli } from "./cli-run.ts";

interface PeerManifest {
  dependencies: Record<string, string>;
}

const PEERS = join(ROOT, "bench", "peers");
const pinned = (JSON.parse(readFileSync(join(PEERS, "package.json"), "utf8")) as PeerManifest).dependencies;
const installed = (name: string): string | undefined => {
  try {
    const text = readFileSync(join(PEERS, "node_modules", name, "package.json"), "utf8");
    return (JSON.parse(text) as { version: string }).version;
  } catch {
    return undefined;
  }
};
const missing = Object.keys(pinned).filter((name) => installed(name) !== pinned[name]);
if (missing.length > 0)
  console.warn(
    `SKIPPED: the comparison with peers: bench/peers lacks ${missing.join(", ")} ("npm ci" there; about 220 MB)`,
  );

describe("bench --against", () => {
  let out = "";
  beforeAll(() => {
    out = mkdtempSync(join(tmpdir(), "ringwise-against-"));
  });
  afterAll(() => rmSync(out, { recursive: true, force: true }));

  it("says which peers there are, and that they are not in Node", async () => {
    const unknown = await runCli(["bench", "--against", "torch"]);
    expect(unknown.code).toBe(2);
    expect(unknown.stderr).toContain('Expected some of ort,ort-gqa,jax,tfjs, got "torch".');
    const node = await runCli(["bench", "--against", "ort", "--runtime", "node"]);
    expect(node.code).toBe(2);
    expect(node.stderr).toContain("--against runs in Chrome");
  });

  it.skipIf(missing.length > 0)(
    "measures all in turn, and tells the right from the wrong and the impossible",
    async () => {
      const { code, stdout, stderr } = await runCli([
        ...["bench", "--against", "ort,jax,tfjs", "--case", "uneven-causal", "softcap", "--out", out, "--json"],
        ...["--repeats", "2", "--warmups", "1", "--min-sample-ms", "1"],
      ]);
      expect(stderr).toContain("1/2 uneven-causal: ringwise, sample 1 of 2");
      expect(code).toBe(0);
      const document = JSON.parse(stdout) as BenchDocument;
      expect(document.versions).toMatchObject(pinned);
      expect(document.command).toContain("bench --against ort,jax,tfjs");
      const contenders = ["ringwise", "onnxruntime-web", "jax-js", "tfjs"];
      expect(document.results.map((result) => result.contender)).toEqual([...contenders, ...contenders]);

      const plain = document.results.slice(0, 4);
      for (const result of plain) {
        expect(result, result.contender).toMatchObject({ case: "uneven-causal", status: "ok" });
        expect(result.maxError).toBeLessThan(1e-5);
        expect(result.timeMs!.samples).toHaveLength(2);
        expect(result.timeMs!.min).toBeGreaterThan(0);
        // Query, key, value and output at least.
        expect(result.peakBytes).toBeGreaterThanOrEqual(result.tensorBytes!);
        expect(result.peakShare).toBeGreaterThan(0);
      }
      expect(plain[0]!.figures!.timesFaster).toBeGreaterThan(0);

      const [ours, ort, jax, tfjs] = document.results.slice(4);
      expect([ours!.status, jax!.status, tfjs!.status]).toEqual(["ok", "failed", "ok"]);
      expect(jax!.reason).toMatch(/^Cannot be asked: .*softcap/);
      // onnxruntime-web takes the attribute and leaves it out of the sum.
      expect(ort).toMatchObject({ status: "wrong", reason: expect.stringContaining("away from the oracle") });

      const file = readdirSync(out).find((name) => name.endsWith(".json"))!;
      expect(JSON.parse(readFileSync(join(out, file), "utf8"))).toEqual(document);
    },
  );
});
