/** Where the installed package keeps what the command line serves. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The package's own folder: the nearest one above this file that holds a package.json. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error(`ringwise: no package.json above ${fileURLToPath(import.meta.url)}`);
    folder = parent;
  }
  return folder;
}

/**
 * A built folder of the package: the demo page, the page that `generate` and `bench` drive, or the default model.
 * @throws {Error} where it was not built.
 */
export function builtFolder(name: "demo" | "harness" | "demo/models/default"): string {
  const folder = join(packageRoot(), "dist", name);
  if (!existsSync(folder)) throw new Error(`ringwise: ${folder} is missing; run "npm run build" first`);
  return folder;
}

/** The package's version. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")) as { version: string }).version;
}
