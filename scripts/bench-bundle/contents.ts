/** What lies in a bundle's folder: the list with sizes and hashes, and the limit of size. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";

/** The folder of the bundle may hold this much, unpacked Node aside. */
export const BUNDLE_LIMIT_BYTES = 60 * 2 ** 20;

/** One file of the bundle. */
export interface BundleFile {
  /** From the bundle's folder, with slashes. */
  path: string;
  byteLength: number;
  sha256: string;
}

/** Every file under a folder, sorted by path. */
export function listFiles(folder: string): BundleFile[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((file) => {
      const bytes = readFileSync(file);
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      return { path: relative(folder, file).split("\\").join("/"), byteLength: bytes.byteLength, sha256 };
    })
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

const mebibytes = (byteLength: number) => `${(byteLength / 2 ** 20).toFixed(1)} MiB`;

/**
 * The sum of all files.
 * @throws {RangeError} above the limit, naming the largest files
 */
export function expectUnderLimit(
  files: readonly Pick<BundleFile, "path" | "byteLength">[],
  limit = BUNDLE_LIMIT_BYTES,
) {
  const total = files.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (total <= limit) return total;
  const largest = [...files].sort((a, b) => b.byteLength - a.byteLength).slice(0, 3);
  throw new RangeError(
    `bench:bundle: expected at most ${mebibytes(limit)}, got ${mebibytes(total)}; the largest are ${largest
      .map(({ path, byteLength }) => `${path} (${mebibytes(byteLength)})`)
      .join(", ")}`,
  );
}

/** The first of some files that is there. */
export const firstThatIsThere = (paths: readonly string[]): string | undefined =>
  paths.find((path) => existsSync(path));
