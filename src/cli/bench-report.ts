/** `ringwise bench --report`: writes BENCHMARKS.md, its plots and the kernels' own lines from the recorded results. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { readDocuments, sectionsOf } from "../../bench/benchmarks/documents.ts";
import { drawSvg } from "../../bench/benchmarks/draw.ts";
import { benchLine, withBenchLine } from "../../bench/benchmarks/kernel-lines.ts";
import { benchmarksMarkdown, PLOT_FOLDER } from "../../bench/benchmarks/markdown.ts";
import { UsageError } from "./errors.ts";
import type { Terminal } from "./terminal.ts";

/** Writes a file where that changes it: an untouched kernel file leaves dist/ fresh. */
function writeChanged(file: string, text: string): boolean {
  if (existsSync(file) && readFileSync(file, "utf8") === text) return false;
  writeFileSync(file, text);
  return true;
}

/**
 * Reads every bench document of the folder and writes what follows from them into the project at `root`: BENCHMARKS.md,
 * plots, and one line in each of `shaders/*.wgsl`, where that folder stands.
 * @throws {UsageError} where there is no folder, or no result in it.
 */
export async function writeReport(resultsFolder: string, root: string, terminal: Terminal): Promise<void> {
  const folder = resolve(resultsFolder);
  const recorded = existsSync(folder) ? readDocuments(folder) : [];
  if (recorded.length === 0)
    throw new UsageError(`--report: expected results that "ringwise bench --name ..." wrote in ${folder}, found none`);
  const { text, plots } = benchmarksMarkdown(recorded);
  const plotFolder = join(root, PLOT_FOLDER);
  mkdirSync(plotFolder, { recursive: true });
  const drawn = new Set<string>();
  for (const plot of plots)
    for (const theme of ["light", "dark"] as const) {
      const name = `${plot.name}-${theme}.svg`;
      terminal.progress(`${drawn.size + 1}/${2 * plots.length} ${name}`);
      drawn.add(name);
      writeChanged(join(plotFolder, name), await drawSvg(plot, theme));
    }
  // Plots of results that are no longer recorded.
  for (const name of readdirSync(plotFolder))
    if (name.endsWith(".svg") && !drawn.has(name)) rmSync(join(plotFolder, name));
  const page = join(root, "BENCHMARKS.md");
  writeChanged(page, text);
  const shaders = join(root, "shaders");
  const sections = sectionsOf(recorded);
  const kernels = existsSync(shaders) ? readdirSync(shaders).filter((file) => file.endsWith(".wgsl")) : [];
  const changed = kernels.filter((file) => {
    const path = join(shaders, file);
    return writeChanged(path, withBenchLine(readFileSync(path, "utf8"), benchLine(file, sections)));
  });
  terminal.result(
    { report: page, documents: recorded.map(({ file }) => file), plots: [...drawn], kernels: changed },
    [
      `from ${recorded.length} results: ${recorded.map(({ file }) => file).join(", ")}`,
      `report: ${page}`,
      `plots: ${drawn.size} in ${plotFolder}`,
      `kernel headers: ${changed.length} of ${kernels.length} changed`,
    ].join("\n"),
  );
}
