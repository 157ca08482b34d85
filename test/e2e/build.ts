/** Before the end-to-end tests: dist/ is built where it is older than the sources, so that they test what is here. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export default function setup(): void {
  const script = fileURLToPath(new URL("../../scripts/build.mjs", import.meta.url));
  execFileSync(process.execPath, [script, "--if-needed"], { stdio: "inherit" });
}
