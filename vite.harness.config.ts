/** The page that the command line drives in Chrome (`generate` and `bench`), into dist/harness. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));

export default defineConfig({
  root: path("bench/page"),
  base: "./",
  build: { outDir: path("dist/harness"), emptyOutDir: true, target: "es2022" },
});
