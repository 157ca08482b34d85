/** The pages that the command line drives in Chrome (`generate`, `bench`, `peer`, and the contenders of `bench --against`), into dist/harness. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));

export default defineConfig({
  root: path("bench/page"),
  base: "./",
  worker: { format: "es" },
  build: {
    outDir: path("dist/harness"),
    emptyOutDir: true,
    target: "es2022",
    rolldownOptions: { input: ["index", "peer", "against"].map((name) => path(`bench/page/${name}.html`)) },
  },
});
