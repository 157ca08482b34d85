/** The binaries of a bundle: Node itself (stripped and compressed), Dawn, and a Vulkan loader for boxes that have none. */
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { firstThatIsThere } from "./contents.ts";
import { type ElfNeeds, readElfNeeds } from "./elf.ts";

/** What every Linux box with glibc and a C++ runtime has; a binary that asks for more would not start on a bare one. */
const BASE_LIBRARIES = new Set([
  ...["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"],
  ...["libstdc++.so.6", "libgcc_s.so.1"],
]);

const LOADERS = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"].map((folder) =>
  join(folder, "libvulkan.so.1"),
);

/**
 * The needs of a binary, which must be no more than a bare box has.
 * @throws {Error} naming the libraries that are too much
 */
export function expectPlainNeeds(what: string, file: string): ElfNeeds {
  const needs = readElfNeeds(readFileSync(file));
  const foreign = needs.libraries.filter((library) => !BASE_LIBRARIES.has(library));
  if (foreign.length > 0)
    throw new Error(
      `bench:bundle: expected ${what} to need nothing but the C and C++ runtimes, ${file} needs ${foreign.join(", ")}; take an official build of nodejs.org (--node /path/to/bin/node)`,
    );
  return needs;
}

/** Strips a copy of a binary where `strip` is there; says whether it did. */
function strip(file: string): boolean {
  chmodSync(file, 0o755);
  try {
    execFileSync("strip", [file], { stdio: "ignore" });
    return true;
  } catch {
    // Without binutils the bundle is some MiB larger; the limit still holds it.
    return false;
  }
}

/** What was put in: for the manifest. */
export interface PackedNode {
  version: string;
  unpackedByteLength: number;
  needs: ElfNeeds;
  isStripped: boolean;
}

/**
 * Writes node/node.gz. The start script unpacks it once: 86 MB of Node would not fit beside the rest.
 * @throws {Error} where the binary needs more than a bare box has, or does not run once stripped
 */
export function packNode(binary: string, folder: string): PackedNode {
  const needs = expectPlainNeeds("Node", binary);
  mkdirSync(folder, { recursive: true });
  const copy = join(folder, "node");
  copyFileSync(binary, copy);
  const isStripped = strip(copy);
  const version = execFileSync(copy, ["--version"], { encoding: "utf8" }).trim();
  const bytes = readFileSync(copy);
  writeFileSync(join(folder, "node.gz"), gzipSync(bytes, { level: 9 }));
  rmSync(copy);
  return { version, unpackedByteLength: bytes.byteLength, needs, isStripped };
}

/** Copies the package `webgpu` with the build of this platform only; returns its version and needs. */
export function packDawn(packageFolder: string, into: string): { version: string; needs: ElfNeeds } {
  const binary = join("dist", "linux-x64", "dawn.node");
  mkdirSync(join(into, dirname(binary)), { recursive: true });
  for (const name of ["index.js", "package.json", "LICENSE.md", binary])
    cpSync(join(packageFolder, name), join(into, name));
  const needs = expectPlainNeeds("Dawn", join(into, binary));
  strip(join(into, binary));
  const { version } = JSON.parse(readFileSync(join(into, "package.json"), "utf8")) as { version: string };
  return { version, needs };
}

/** Copies this machine's Vulkan loader; undefined where it has none. */
export function packVulkanLoader(into: string): ElfNeeds | undefined {
  const loader = firstThatIsThere(LOADERS);
  if (!loader) return undefined;
  const needs = expectPlainNeeds("the Vulkan loader", loader);
  mkdirSync(into, { recursive: true });
  const copy = join(into, "libvulkan.so.1");
  copyFileSync(loader, copy);
  strip(copy);
  return needs;
}

/** Node's own licence: beside an official build, or where Debian keeps it. */
export function nodeLicence(binary: string): string {
  const found = firstThatIsThere([join(dirname(binary), "..", "LICENSE"), "/usr/share/doc/nodejs/LICENSE"]);
  if (!found || !existsSync(found))
    throw new Error(`bench:bundle: expected Node's LICENSE beside ${binary} or in /usr/share/doc/nodejs`);
  return found;
}
