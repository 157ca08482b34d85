/** Builds what a bundle runs: the library as one ES module, and the bench beside it. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "vite";

/** Packages that the built files may import at start: the one that lies in the bundle's node_modules. */
const INSIDE = new Set(["webgpu"]);

const isPackage = (id: string) => /^[@a-z]/.test(id) && !id.includes("?") && !/^[a-z]:[\\/]/i.test(id);

/**
 * Writes ringwise.js (the public API), run.js (the bench) and their chunks. Packages stay imports, as in the published
 * library: the attention part has none, and what a model would import is not in a bundle.
 * @throws {Error} where what starts would import a package that the bundle does not have
 */
export async function buildApp(root: string, outDir: string): Promise<void> {
  const outputs = await build({
    configFile: false,
    root,
    base: "./",
    logLevel: "warn",
    build: {
      outDir,
      emptyOutDir: true,
      target: "es2022",
      minify: false,
      lib: {
        entry: { ringwise: join(root, "src/index.ts"), run: join(root, "bench/bundle/run.ts") },
        formats: ["es"],
      },
      rolldownOptions: { external: isPackage, output: { chunkFileNames: "chunks/[name]-[hash].js" } },
    },
  });
  const chunks = [outputs].flat().flatMap((output) => ("output" in output ? output.output : []));
  const byFile = new Map(chunks.map((chunk) => [chunk.fileName, chunk]));
  const seen = new Set<string>();
  const visit = (fileName: string) => {
    const chunk = byFile.get(fileName);
    if (seen.has(fileName) || chunk?.type !== "chunk") return;
    seen.add(fileName);
    for (const id of chunk.imports) {
      if (byFile.has(id)) visit(id);
      else if (!id.startsWith("node:") && !INSIDE.has(id))
        throw new Error(`bench:bundle: ${fileName} imports "${id}", which the bundle does not have`);
    }
  };
  visit("run.js");
  visit("ringwise.js");
  writeFileSync(join(outDir, "package.json"), `${JSON.stringify({ name: "ringwise-bench", type: "module" })}\n`);
}
