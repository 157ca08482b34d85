/** The house rules of the design, read off the sources: who may import whom, and where `.wgsl` and Node come in. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** What a room may import beside itself, and files of src/ that every room may. */
const ARROWS: Record<string, readonly string[]> = {
  gpu: [],
  link: [],
  kernels: ["gpu"],
  ring: ["kernels", "gpu", "link"],
  model: ["ring", "kernels", "gpu", "link"],
  peers: ["model", "ring", "kernels", "gpu", "link"],
  room: ["link"],
  train: ["model", "ring", "kernels", "gpu"],
  reference: [],
};
const COMMON = ["src/errors.ts", "src/shape.ts"];
const LIBRARY_ROOMS = Object.keys(ARROWS);

/** `specifier` of every import and export, static and dynamic; `isType` where nothing of it is left at run time. */
function importsOf(file: string): { specifier: string; isType: boolean }[] {
  const text = readFileSync(join(root, file), "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
  const statics = [...text.matchAll(/^\s*(?:import|export)\s+(type\s)?(?:[^'"`;]*?\sfrom\s+)?["']([^"']+)["']/gm)];
  const dynamics = [...text.matchAll(/\bimport\(\s*["']([^"']+)["']/g)];
  return [
    ...statics.map((match) => ({ specifier: match[2]!, isType: match[1] !== undefined })),
    ...dynamics.map((match) => ({ specifier: match[1]!, isType: false })),
  ];
}

const slashes = (path: string) => path.split(sep).join("/");

function filesUnder(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".ts") && !entry.parentPath.includes("node_modules"))
    .map((entry) => slashes(relative(root, join(entry.parentPath, entry.name))));
}

/** The file that a relative import names, from the root; undefined for a package. */
function target(file: string, specifier: string): string | undefined {
  if (!specifier.startsWith(".")) return undefined;
  return slashes(relative(root, resolve(root, dirname(file), specifier.replace(/\?.*$/, ""))));
}

const roomOf = (file: string) => /^src\/([^/]+)\//.exec(file)?.[1];
const sources = filesUnder("src");

describe("the house", () => {
  it("has sources to look at", () => {
    expect(sources).toContain("src/index.ts");
    expect(sources.filter((file) => roomOf(file) === "kernels").length).toBeGreaterThan(3);
  });

  it("imports go one way: model -> ring -> kernels -> gpu -> errors, shape", () => {
    const wrong: string[] = [];
    for (const file of sources) {
      const room = roomOf(file);
      if (!room || !LIBRARY_ROOMS.includes(room)) continue;
      for (const { specifier } of importsOf(file)) {
        const to = target(file, specifier);
        if (!to || COMMON.includes(to)) continue;
        if (to.startsWith("shaders/")) {
          if (file !== "src/kernels/sources.ts") wrong.push(`${file} imports ${to}: only src/kernels/sources.ts does`);
          continue;
        }
        const toRoom = roomOf(to);
        if (toRoom !== room && !ARROWS[room]!.includes(toRoom ?? "")) wrong.push(`${file} imports ${to}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it("errors.ts and shape.ts import nothing but each other", () => {
    for (const file of COMMON)
      for (const { specifier } of importsOf(file)) expect(COMMON, file).toContain(target(file, specifier));
  });

  it("has no circle of imports", () => {
    const edges = new Map(
      sources.map((file) => [
        file,
        importsOf(file)
          .filter(({ isType }) => !isType)
          .map(({ specifier }) => target(file, specifier))
          .filter((to) => to !== undefined),
      ]),
    );
    const state = new Map<string, "open" | "closed">();
    const circles: string[] = [];
    const visit = (file: string, path: readonly string[]) => {
      if (state.get(file) === "closed") return;
      if (state.get(file) === "open") {
        circles.push([...path.slice(path.indexOf(file)), file].join(" -> "));
        return;
      }
      state.set(file, "open");
      for (const to of edges.get(file) ?? []) visit(to, [...path, file]);
      state.set(file, "closed");
    };
    for (const file of sources) visit(file, []);
    expect(circles).toEqual([]);
  });

  it("the library imports no Node module, and packages only when a model is loaded or a room is joined", () => {
    const wrong: string[] = [];
    for (const file of sources) {
      const room = roomOf(file);
      if (room === "cli") continue;
      const text = readFileSync(join(root, file), "utf8");
      for (const { specifier, isType } of importsOf(file)) {
        if (specifier.startsWith(".") || isType) continue;
        const isDynamic = new RegExp(`import\\(\\s*["']${specifier.replace(/[/\\.]/g, "\\$&")}["']`).test(text);
        if (specifier.startsWith("node:") || !isDynamic || !["model", "room"].includes(room ?? ""))
          wrong.push(`${file} imports ${specifier}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it("the command line, the demo and the benches reach the library through its public API", () => {
    const outside = [...filesUnder("src/cli"), ...filesUnder("demo"), ...filesUnder("bench")];
    const wrong: string[] = [];
    for (const file of outside)
      for (const { specifier } of importsOf(file)) {
        const to = target(file, specifier);
        const room = to && roomOf(to);
        // The oracle is no part of the product; a bench measures errors against it. Nor are faults; the fault suite does them.
        const isForTests = room === "reference" || to === "src/link/fault.ts";
        // The bench of the small kernels (add, argmax, copies) runs what has no public name: a model's own parts.
        const isKernelBench = room === "kernels" && file === "bench/jobs/kernels.ts";
        // Peers run a model's graph from its numbers, and the roofline times its parts: neither has a public name.
        const isModelBench =
          room === "model" && ["bench/onnx/model-numbers.ts", "bench/jobs/model-roofline.ts"].includes(file);
        if (
          room &&
          LIBRARY_ROOMS.includes(room) &&
          !isKernelBench &&
          !isModelBench &&
          !(isForTests && file.startsWith("bench/"))
        )
          wrong.push(`${file} imports ${to}`);
      }
    expect(wrong).toEqual([]);
  });

  it("files stay under 500 lines", () => {
    const long = [...sources, ...filesUnder("demo"), ...filesUnder("bench")]
      .map((file) => ({ file, lines: readFileSync(join(root, file), "utf8").split("\n").length }))
      .filter(({ lines }) => lines > 500);
    expect(long).toEqual([]);
  });
});
