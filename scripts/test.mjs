/**
 * `npm test`: finds a Chrome, then type check, lint, build (with the docstring check), and every test. Each step runs even
 * where one before it failed; the last line has the totals, and the exit code is 1 where anything failed.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "ringwise-test-"));
const report = join(scratch, "vitest.json");
const tool = (name) => join(root, "node_modules", ".bin", process.platform === "win32" ? `${name}.cmd` : name);

const totals = { passed: 0, failed: 0, skipped: 0 };
const timings = [];

/** Runs a step to its end; its output is ours. */
function step(title, command, args) {
  console.log(`\n> ${title}`);
  const startMs = performance.now();
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit", shell: process.platform === "win32" });
  const isPassed = status === 0;
  timings.push(`${title} ${((performance.now() - startMs) / 1000).toFixed(0)} s${isPassed ? "" : " FAILED"}`);
  return isPassed;
}

const count = (isPassed) => totals[isPassed ? "passed" : "failed"]++;

const hasChrome = step("Chrome", process.execPath, ["scripts/run.mjs", "scripts/ensure-chrome.ts"]);
count(hasChrome);
count(step("type check", tool("tsc"), ["--noEmit"]));
count(step("lint", tool("biome"), ["check", "."]));
count(step("build", process.execPath, ["scripts/build.mjs", "--if-needed"]));

const vitest = ["run", "--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
// Without a Chrome the tests that need none still say what they can.
if (!hasChrome) vitest.push("--project", "node");
const isPassed = step("tests", tool("vitest"), [...vitest, ...process.argv.slice(2)]);
if (existsSync(report)) {
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } = JSON.parse(readFileSync(report, "utf8"));
  totals.passed += numPassedTests;
  totals.failed += numFailedTests;
  totals.skipped += numPendingTests + numTodoTests;
  // A file that could not be loaded, or an error outside of any test.
  if (!isPassed && numFailedTests === 0) totals.failed++;
} else totals.failed++;
rmSync(scratch, { recursive: true, force: true });

console.log(`\n${timings.join(", ")}`);
console.log(`${totals.passed} passed, ${totals.failed} failed${totals.skipped ? `, ${totals.skipped} skipped` : ""}`);
process.exitCode = totals.failed > 0 ? 1 : 0;
