/**
 * `npm run build`: the library and the command line, their type declarations, the demo page and the harness page.
 *
 *   --if-needed    do nothing where dist/ is newer than every source
 *   --if-possible  do nothing where the build tools are not installed (`npm install --omit=dev`)
 */
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const stamp = join(root, "dist", ".stamp");

/** What the build reads: a change in any of these makes dist/ old. */
const SOURCES = ["src", "shaders", "demo", "bench", "models", "test/cases.ts", "package.json"];
const CONFIGURATION = [
  "scripts/build.mjs",
  "tsconfig.json",
  "tsconfig.build.json",
  "vite.config.ts",
  "vite.lib.config.ts",
];

function newestMs(path) {
  if (!existsSync(path)) return 0;
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  // What benches write and install is no source; it would also change the time of the folder that it lies in.
  const names = readdirSync(path).filter((name) => !["results", "plots", "node_modules"].includes(name));
  if (existsSync(join(path, "package-lock.json"))) return Math.max(...names.map((name) => newestMs(join(path, name))));
  // A folder's own time tells of files that were removed.
  return Math.max(stat.mtimeMs, ...names.map((name) => newestMs(join(path, name))));
}

function isFresh() {
  if (!existsSync(stamp)) return false;
  const builtMs = statSync(stamp).mtimeMs;
  return [...SOURCES, ...CONFIGURATION, "vite.harness.config.ts"].every((path) => newestMs(join(root, path)) < builtMs);
}

function canBuild() {
  const require = createRequire(import.meta.url);
  try {
    require.resolve("vite");
    require.resolve("typescript");
    return true;
  } catch {
    return false;
  }
}

/** Declarations name each other by `.ts`; published ones must name what a consumer's compiler finds beside them. */
function rewriteDeclarationImports(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile() || !entry.name.endsWith(".d.ts")) continue;
    const file = join(entry.parentPath, entry.name);
    const before = readFileSync(file, "utf8");
    const after = before.replace(/((?:from|import\()\s*["']\.{1,2}\/[^"']+)\.ts(["'])/g, "$1.js$2");
    if (after !== before) writeFileSync(file, after);
  }
}

/** Builds everything into dist/. Throws with the tool's own words where a step fails. */
export async function build() {
  const startMs = performance.now();
  rmSync(join(root, "dist"), { recursive: true, force: true });
  const { missingDocstrings } = await import("./docstrings.mjs");
  const missing = missingDocstrings(join(root, "src/index.ts"));
  if (missing.length > 0) throw new Error(`public exports without a docstring:\n  ${missing.join("\n  ")}`);

  const vite = await import("vite");
  for (const config of ["vite.lib.config.ts", "vite.harness.config.ts", "vite.config.ts"])
    await vite.build({ configFile: join(root, config), logLevel: "warn" });

  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  execFileSync(process.execPath, [tsc, "-p", join(root, "tsconfig.build.json")], { stdio: "inherit", cwd: root });
  rewriteDeclarationImports(join(root, "dist"));
  // `[Symbol.dispose]` is known to a consumer's compiler only with this library, which few projects name themselves.
  const declarations = join(root, "dist", "index.d.ts");
  writeFileSync(declarations, `/// <reference lib="esnext.disposable" />\n${readFileSync(declarations, "utf8")}`);

  chmodSync(join(root, "dist/cli/main.js"), 0o755);
  writeFileSync(stamp, `${new Date().toISOString()}\n`);
  console.error(`built dist/ in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
}

/** Builds where a source is newer than dist/. */
export async function buildIfNeeded() {
  if (!isFresh()) await build();
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const flags = new Set(process.argv.slice(2));
  if (flags.has("--if-possible") && !canBuild()) console.error("ringwise: build tools not installed, dist/ not built");
  else if (flags.has("--if-needed")) await buildIfNeeded();
  else await build();
}
