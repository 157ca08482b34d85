/** placeholder header */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { buildModelFiles } from "./default-model/files.ts";

const folder = resolve(process.argv[2] ?? "models/default");
mkdirSync(folder, { recursive: true });
let byteLength = 0;
for (const [name, bytes] of buildModelFiles()) {
  writeFileSync(join(folder, name), bytes);
  console.log(`${join(folder, name)}: ${bytes.length} bytes`);
  byteLength += bytes.length;
}
console.log(`${byteLength} bytes together`);
