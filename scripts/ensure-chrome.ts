/** Finds or fetches a Chrome and prints its path: the first thing that `npm test` does. */
import { execFileSync } from "node:child_process";
import { ensureChrome } from "../src/cli/chrome.ts";

const path = await ensureChrome();
// On Windows chrome.exe opens a window when asked for its version.
const version = process.platform === "win32" ? "" : execFileSync(path, ["--version"], { encoding: "utf8" }).trim();
console.log(`Chrome: ${path} ${version && `(${version})`}`);
