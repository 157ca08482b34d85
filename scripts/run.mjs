/**
 * Runs a TypeScript script of this repository on any supported Node: `node scripts/run.mjs scripts/x.ts [arguments]`.
 * Vite's module runner reads `.ts` and `?raw` imports exactly as the build does; the script sees its own arguments in
 * `process.argv.slice(2)`.
 */
import { resolve } from "node:path";
import { runnerImport } from "vite";

const [script, ...rest] = process.argv.slice(2);
if (!script) {
  console.error("usage: node scripts/run.mjs <script.ts> [arguments]");
  process.exit(2);
}
process.argv.splice(1, process.argv.length - 1, resolve(script), ...rest);
await runnerImport(resolve(script), { configFile: false, logLevel: "error" });
