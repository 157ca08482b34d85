/** `npm start`: builds what is old, then `ringwise demo` (headless where there is no display). */
import { buildIfNeeded } from "./build.mjs";

await buildIfNeeded();
process.argv.splice(2, 0, "demo");
await import("../dist/cli/main.js");
