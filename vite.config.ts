/** The demo page: `npx vite` serves it while working on it, `npm run build` puts it into dist/demo. */
import { cpSync, existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import sirv from "sirv";
import { defineConfig, type Plugin } from "vite";

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
const outDir = path("dist/demo");

/** Cross-origin isolation: without it, clocks in the page are too coarse to time a ring step. */
export const isolationHeaders = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** The model that Ringwise ships lives beside the sources (models/default) and is served at models/default/. */
const defaultModel: Plugin = {
  name: "ringwise-default-model",
  configureServer(server) {
    server.middlewares.use("/models/default", sirv(path("models/default"), { dev: true }));
  },
  closeBundle() {
    if (existsSync(path("models/default")))
      cpSync(path("models/default"), `${outDir}/models/default`, { recursive: true });
  },
};

export default defineConfig({
  root: path("demo"),
  base: "./",
  plugins: [defaultModel],
  worker: { format: "es" },
  server: { headers: isolationHeaders, fs: { allow: [path(".")] } },
  build: { outDir, emptyOutDir: true, target: "es2022" },
});
