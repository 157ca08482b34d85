/** A trained model in `ringwise bench --against ort`: onnxruntime-web runs the same graph, and both are the oracle's. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { BenchDocument } from "../../bench/result-types.ts";
import { ROOT, runCli } from "./cli-run.ts";

const packageFile = join(ROOT, "bench", "peers", "node_modules", "onnxruntime-web", "package.json");
const pinned = JSON.parse(readFileSync(join(ROOT, "bench", "peers", "package.json"), "utf8")).dependencies;
const isInstalled =
  existsSync(packageFile) && JSON.parse(readFileSync(packageFile, "utf8")).version === pinned["onnxruntime-web"];
const hasModel = existsSync(join(ROOT, "..", "shared", "models", "stories260K"));
const canRun = isInstalled && hasModel;
if (!canRun)
  console.warn(
    `SKIPPED: whole models against onnxruntime-web: ${isInstalled ? "../shared/models/stories260K" : "bench/peers/node_modules"} is absent`,
  );

describe("bench --against ort, whole models", () => {
  const out = mkdtempSync(join(tmpdir(), "ringwise-models-"));
  afterAll(() => rmSync(out, { recursive: true, force: true }));

  it.skipIf(!canRun)(
    "measures prefill and decode of both, each with the oracle's logits",
    async () => {
      const { code, stdout } = await runCli([
        ...["bench", "--against", "ort,tfjs", "--case", "model-stories260K-128", "--repeats", "1", "--json"],
        ...["--contender-seconds", "30", "--min-sample-ms", "1", "--out", out],
      ]);
      expect(code).toBe(0);
      const { results } = JSON.parse(stdout) as BenchDocument;
      expect(results.map((result) => [result.case, result.contender, result.status])).toEqual(
        ["ringwise", "onnxruntime-web"].flatMap((contender) => [
          ["model-stories260K-128-prefill", contender, "ok"],
          ["model-stories260K-128-decode", contender, "ok"],
        ]),
      );
      for (const { timeMs, maxError, peakBytes, figures } of results) {
        expect(timeMs!.median).toBeGreaterThan(0);
        expect(maxError).toBeLessThan(1e-3);
        // The weights alone are more.
        expect(peakBytes).toBeGreaterThan(1_000_000);
        expect(figures!.tokensPerSecond).toBeGreaterThan(0);
      }
    },
    300_000,
  );
});
