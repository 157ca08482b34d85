/** `ringwise tune`: one class of shapes in headless Chrome, the document, and what it refuses. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { TuneAnswer } from "../../bench/jobs/tune.ts";
import { runCli, startCli } from "./cli-run.ts";

describe("tune", () => {
  it("checks and times candidates on this adapter, and tells the choice", async () => {
    const { code, stdout, stderr } = await runCli([
      ...["tune", "--shape", "f32 d16 full", "--candidate", "tile-64x16", "tile-32x32", "--json"],
    ]);
    expect({ code, stderr }).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/1 of 1: f32 d16 full: .*tile-32x32/),
    });
    const { adapter, records, data } = JSON.parse(stdout) as TuneAnswer;
    expect(adapter).not.toBe("");
    expect(records).toHaveLength(1);
    const [{ id, shape, candidates }] = records as [TuneAnswer["records"][0]];
    expect(shape).toBe("f32 d16 full long many-rows");
    expect(candidates.map((candidate) => candidate.id).sort()).toEqual(["tile-32x32", "tile-64x16"]);
    const chosen = candidates.find((candidate) => candidate.id === id)!;
    expect(chosen.status).toBe("ok");
    expect(chosen.timeMs).toBeGreaterThan(0);
    expect(data!.choices).toEqual({ [shape]: id });
  });

  it("Ctrl-C ends it at once and leaves nothing behind", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ringwise-tune-"));
    try {
      const { child, outcome } = startCli(["tune", "--shape", "f32 d64 full"], { env: { TMPDIR: folder } });
      await new Promise<void>((resolve) => {
        child.stderr!.on("data", (text: string) => text.includes("compiling and checking") && resolve());
      });
      child.kill("SIGINT");
      expect(await outcome).toMatchObject({ code: 130, stdout: "" });
      expect(readdirSync(folder)).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("lists the shapes, and refuses others", async () => {
    const { stdout } = await runCli(["tune", "--list"]);
    expect(stdout.trim().split("\n")).toContain("f16 d128 decode g4");
    const wrong = await runCli(["tune", "--shape", "d65"]);
    expect(wrong).toMatchObject({
      code: 2,
      stdout: "",
      stderr: expect.stringMatching(/no shape has that in its name/),
    });
  });
});
