/** `npm run bench:bundle -- --check`: a bundle's archive, unpacked elsewhere, must run with nothing of this machine's own. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

/** Whether this process may make a network of its own (root, or user namespaces). */
const canUnshare = () => spawnSync("unshare", ["-rn", "true"], { stdio: "ignore" }).status === 0;

/**
 * Unpacks and runs `./start --quick`: an empty environment but for the driver's name, no network where the system lets it.
 * @returns whether it ended with 0 and wrote results
 */
export async function checkBundle(archive: string, say: (line: string) => void): Promise<boolean> {
  const place = mkdtempSync(join(tmpdir(), "ringwise-bundle-"));
  try {
    execFileSync("tar", ["-xzf", archive, "-C", place]);
    const folder = join(place, basename(archive, ".tar.gz"));
    const drivers = ["VK_ICD_FILENAMES", "VK_DRIVER_FILES"].flatMap((name) =>
      process.env[name] ? [`${name}=${process.env[name]}`] : [],
    );
    const isolated = canUnshare();
    say(
      `--check: ./start --quick in ${folder}, ${isolated ? "without a network" : "with the network (unshare is not allowed)"}`,
    );
    const command = ["env", "-i", "PATH=/usr/bin:/bin", ...drivers, "./start", "--quick"];
    const [program = "", ...args] = isolated ? ["unshare", "-rn", ...command] : command;
    const { status } = spawnSync(program, args, { cwd: folder, stdio: ["ignore", "inherit", "inherit"] });
    const results = JSON.parse(readFileSync(join(folder, "out", "results.json"), "utf8")) as { results: unknown[] };
    say(`--check: ended with ${status}, ${results.results.length} rows`);
    return status === 0 && results.results.length > 0;
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}
