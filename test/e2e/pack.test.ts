/**
 * What `npm pack` makes, as a stranger meets it: checked by publint and attw, installed into a fresh Vite project,
 * imported, type-checked, built, and run in Chrome.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launchChrome } from "../../src/cli/chrome.ts";
import { serve } from "../../src/cli/server.ts";
import { ROOT } from "./cli-run.ts";

const modules = join(ROOT, "node_modules");

function run(cwd: string, command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${command} ${args.join(" ")}:\n${stdout}\n${stderr}`);
  }
}

const node = (cwd: string, script: string, ...args: string[]) =>
  run(cwd, process.execPath, join(modules, script), ...args);

/** The new project's package.json: the package, and this checkout's own versions of the tools. */
function manifestOf(tarball: string) {
  const { devDependencies } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  return {
    ...{ name: "fresh", private: true, type: "module" },
    dependencies: { ringwise: `file:${tarball}` },
    devDependencies: Object.fromEntries(
      ["vite", "typescript", "@webgpu/types"].map((name) => [name, devDependencies[name]]),
    ),
  };
}

/** What a person writes on their first day. */
const MAIN = `import { createAttention, loadModel, requestRingwiseDevice, ShapeError, type AttentionOptions } from "ringwise";

const options: AttentionOptions = { heads: 2, headDim: 16, isCausal: true };
const device: GPUDevice = await requestRingwiseDevice();
const attention = await createAttention(device, options);
const make = (count: number) => device.createBuffer({ size: count * 4, usage: 0x80 | 0x4 | 0x8 });
const [query, key, value, output] = [make(320), make(320), make(320), make(320)] as const;
device.queue.writeBuffer(value, 0, new Float32Array(320).fill(0.5));
const encoder = device.createCommandEncoder();
attention.encode(encoder, { query, key, value, output, batch: 1, seqLen: 10, kvSeqLen: 10 });
const staging = device.createBuffer({ size: 1280, usage: 0x1 | 0x8 });
encoder.copyBufferToBuffer(output, 0, staging, 0, 1280);
device.queue.submit([encoder.finish()]);
await staging.mapAsync(0x1);
const result = new Float32Array(staging.getMappedRange().slice(0));
document.title = result.every((x) => Math.abs(x - 0.5) < 1e-6) ? "ok" : "wrong " + result.slice(0, 4).join();
export const unused: unknown[] = [loadModel, ShapeError];
`;

describe("the package", () => {
  let scratch = "";
  let project = "";
  let tarball = "";
  let files: string[] = [];

  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), "ringwise-pack-"));
    project = join(scratch, "project");
    const listing = run(ROOT, "npm", "pack", "--ignore-scripts", "--json", "--pack-destination", scratch);
    const [packed] = JSON.parse(listing.slice(listing.indexOf("["))) as [
      { filename: string; files: { path: string }[] },
    ];
    tarball = join(scratch, packed.filename);
    files = packed.files.map(({ path }) => path);
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  it("carries the library, the command line, the pages, the default model and the licence, and no sources", () => {
    for (const file of ["dist/index.js", "dist/index.d.ts", "dist/cli/main.js", "dist/demo/index.html", "LICENSE"])
      expect(files).toContain(file);
    expect(files).toContain("dist/demo/models/default/model.safetensors");
    expect(files).toContain("dist/harness/index.html");
    expect(files.filter((file) => /^(src|test|bench|demo|scripts|shaders)\//.test(file))).toEqual([]);
    expect(readFileSync(join(ROOT, "LICENSE"), "utf8")).toMatch(/Apache License\s+Version 2\.0, January 2004/);
  });

  it("passes publint and attw", () => {
    node(ROOT, "publint/src/cli.js", "run", ROOT, "--strict", "--pack", "false");
    const output = node(scratch, "@arethetypeswrong/cli/dist/index.js", tarball, "--profile", "esm-only");
    expect(output).not.toMatch(/💀|❌/u);
  });

  it("the library imports no package at all until a model is loaded", () => {
    // Whatever the library can reach, at once or later; the command line's own chunks lie beside these.
    const statics: string[] = [];
    const files = ["index.js"];
    for (const file of files) {
      const text = readFileSync(join(ROOT, "dist", file), "utf8");
      const namesOf = (pattern: RegExp) => [...text.matchAll(pattern)].map((match) => match[1]!);
      const atOnce = namesOf(/^(?:import|export)\s[^"';]*["']([^"']+)["'];?$/gm);
      statics.push(...atOnce);
      for (const name of [...atOnce, ...namesOf(/\bimport\(\s*["'`](\.[^"'`]+)["'`]/g)]) {
        const reached = join(dirname(file), name);
        if (name.startsWith(".") && !files.includes(reached)) files.push(reached);
      }
    }
    expect(files.length).toBeGreaterThan(1);
    expect(statics.filter((name) => !name.startsWith("."))).toEqual([]);
  });

  it("works in a fresh Vite project: installed, type-checked, built, run in Chrome", async () => {
    mkdirSync(project);
    writeFileSync(join(project, "package.json"), JSON.stringify(manifestOf(tarball)));
    // Most of it comes out of npm's cache, which the installation of this checkout has filled.
    run(project, "npm", "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund");
    writeFileSync(join(project, "index.html"), '<!doctype html><script type="module" src="./main.ts"></script>');
    writeFileSync(join(project, "main.ts"), MAIN);
    // As Vite's own template has it, with declarations checked too.
    const compilerOptions = {
      ...{ target: "ES2022", module: "ESNext", moduleResolution: "bundler", lib: ["ES2023", "DOM", "DOM.Iterable"] },
      ...{ types: ["@webgpu/types"], strict: true, noEmit: true, skipLibCheck: false, verbatimModuleSyntax: true },
    };
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["main.ts"] }));
    run(project, "npx", "--no-install", "tsc", "-p", ".");
    run(project, "npx", "--no-install", "vite", "build", "--base", "./", "--logLevel", "warn");

    const server = await serve([{ path: "/", folder: join(project, "dist") }]);
    const browser = await launchChrome();
    try {
      const page = await browser.newPage();
      const errors: string[] = [];
      page.on("pageerror", (error) => errors.push(String(error)));
      await page.goto(server.url);
      await page.waitForFunction('document.title !== ""', { timeout: 60_000 });
      expect(errors).toEqual([]);
      expect(await page.title()).toBe("ok");
    } finally {
      await browser.close();
      await server.close();
    }
  });

  it("its command line runs where it is installed", () => {
    expect(run(project, "npx", "--no-install", "ringwise", "--version").trim()).toMatch(/^\d+\.\d+\.\d+$/);
    const names = JSON.parse(run(project, "npx", "--no-install", "ringwise", "bench", "--list", "--json")) as string[];
    expect(names).toContain("prefill-1024");
  });
});
