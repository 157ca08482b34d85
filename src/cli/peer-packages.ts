/**
 * The packages that `bench --against` measures Ringwise against. They are no dependencies: `npm ci` fetches them on first use, into
 * bench/peers of a clone, or into the user's cache where Ringwise was installed from npm.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import packageJson from "../../bench/peers/package.json?raw";
import packageLock from "../../bench/peers/package-lock.json?raw";
import { JobError } from "./errors.ts";
import { packageRoot, packageVersion } from "./paths.ts";

/** Wanted versions by package name, as bench/peers/package.json pins them. */
export const peerVersions = (): Record<string, string> =>
  (JSON.parse(packageJson) as { dependencies: Record<string, string> }).dependencies;

/** Where the packages live; with an installed Ringwise, its lock file is written there first. */
export function peersFolder(): string {
  const clone = join(packageRoot(), "bench", "peers");
  if (existsSync(join(clone, "package-lock.json"))) return clone;
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  return join(cache, "ringwise", `peers-${packageVersion()}`);
}

/** The version of an installed package; undefined where it is absent. */
function installedVersion(folder: string, name: string): string | undefined {
  try {
    const file = join(folder, "node_modules", name, "package.json");
    return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
  } catch {
    return undefined;
  }
}

/** Names of packages that are absent or of another version than is pinned. */
export const missingPeers = (folder = peersFolder()): string[] =>
  Object.entries(peerVersions())
    .filter(([name, version]) => installedVersion(folder, name) !== version)
    .map(([name]) => name);

/** How often it is said that npm is still at it. */
const PROGRESS_INTERVAL_MS = 5000;
/** What of npm's own words goes into an error. */
const LINES_SHOWN = 6;

function runNpm(folder: string, say: (message: string) => void): Promise<void> {
  const isWindows = process.platform === "win32";
  const args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  const child = spawn(isWindows ? "npm.cmd" : "npm", args, {
    ...{ cwd: folder, shell: isWindows },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let words = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (words += text));
  const startMs = performance.now();
  const timer = setInterval(
    () => say(`npm ci in ${folder}: ${Math.round((performance.now() - startMs) / 1000)} s`),
    PROGRESS_INTERVAL_MS,
  );
  return new Promise<void>((resolve, reject) => {
    const fail = (why: string) =>
      reject(
        new JobError(
          "PeerInstallError",
          `npm ci in ${folder} failed: the peers of --against come from the npm registry on first use. With a network, run it ` +
            `again; without one, copy that folder's node_modules from a machine that has them. npm said: ${why}`,
        ),
      );
    child.once("error", (error) => fail(error.message));
    child.once("close", (code) => {
      const lines = words
        .trim()
        .split("\n")
        .filter((line) => !/^npm error\s+at /.test(line));
      if (code === 0) resolve();
      else fail(lines.slice(0, LINES_SHOWN).join(" / ") || `exit code ${code}`);
    });
  }).finally(() => clearInterval(timer));
}

/**
 * Installs the peers where they are not, and resolves with their node_modules folder.
 * @throws {JobError} "PeerInstallError": no network, no npm, or a registry that refuses.
 */
export async function installPeers(say: (message: string) => void): Promise<string> {
  const folder = peersFolder();
  const modules = join(folder, "node_modules");
  if (missingPeers(folder).length === 0) return modules;
  mkdirSync(folder, { recursive: true });
  if (!existsSync(join(folder, "package-lock.json"))) {
    writeFileSync(join(folder, "package.json"), packageJson);
    writeFileSync(join(folder, "package-lock.json"), packageLock);
  }
  const names = Object.entries(peerVersions()).map(([name, version]) => `${name} ${version}`);
  say(`installing ${names.join(", ")} into ${folder} (once, about 220 MB on disk)`);
  await runNpm(folder, say);
  const missing = missingPeers(folder);
  if (missing.length > 0)
    throw new JobError(
      "PeerInstallError",
      `npm ci in ${folder} ended well, and yet ${missing.join(", ")} is not there`,
    );
  return modules;
}
