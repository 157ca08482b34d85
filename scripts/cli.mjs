/** The command line from a clone: builds what is old, then does what `npx ringwise` does with the same arguments. */
import { buildIfNeeded } from "./build.mjs";

await buildIfNeeded();
await import("../dist/cli/main.js");
