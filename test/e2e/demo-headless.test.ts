/** `ringwise demo --headless`, which is what `npm start` does without a display: the page itself, driven to its answer. */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { runCli, startCli } from "./cli-run.ts";

it("finds the needle on a ring of 4, prints answer, figures per rank and screenshot, and ends with 0", async () => {
  const scratch = mkdtempSync(join(tmpdir(), "ringwise-demo-"));
  try {
    const screenshot = join(scratch, "shots/demo.png");
    const { code, stdout, stderr } = await runCli(["demo", "--length", "1024", "--screenshot", screenshot]);
    expect(stderr).not.toContain("Error");
    expect(code).toBe(0);
    expect(stdout).toMatch(/expected ".*": found/);
    expect(stdout).toContain("ring of 4, zigzag");
    expect(stdout.match(/^ +[0-3] +\d+ /gm)).toHaveLength(4);
    expect(stdout).toContain(`screenshot: ${screenshot}`);
    expect(statSync(screenshot).size).toBeGreaterThan(10_000);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});

it("--no-open serves the page until it is ended, on the port asked for", async () => {
  const { child, outcome } = startCli(["demo", "--no-open", "--port", "0"]);
  const url = await new Promise<string>((resolve) => {
    let text = "";
    child.stderr!.on("data", (chunk: string) => {
      text += chunk;
      const found = /http:\/\/localhost:\d+\//.exec(text);
      if (found) resolve(found[0]);
    });
  });
  const page = await fetch(url);
  expect(page.status).toBe(200);
  expect(await page.text()).toContain("<title>");
  const config = await fetch(`${url}models/default/config.json`);
  expect(((await config.json()) as { model_type: string }).model_type).toBe("llama");
  child.kill("SIGINT");
  await outcome;
});
