/**
 * The library (dist/index.js) and the command line (dist/cli/main.js), as ES modules. Every package stays an import:
 * the attention part imports none, and the model part imports its own only when a model is loaded. WGSL is inlined.
 */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));

export default defineConfig({
  // The broker of tabs (a SharedWorker) lies beside the library's own files, wherever those are served from.
  base: "./",
  build: {
    outDir: path("dist"),
    emptyOutDir: false,
    target: "es2022",
    minify: false,
    sourcemap: true,
    lib: { entry: { index: path("src/index.ts"), "cli/main": path("src/cli/main.ts") }, formats: ["es"] },
    rolldownOptions: {
      // A bare name is a package or a Node module; what carries a query (`?raw`) is text to be inlined.
      external: (id) => /^[@a-z]/.test(id) && !id.includes("?") && !/^[a-z]:[\\/]/i.test(id),
      output: { chunkFileNames: "chunks/[name]-[hash].js" },
    },
  },
});
