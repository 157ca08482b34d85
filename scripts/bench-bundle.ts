/**
 * `npm run bench:bundle`: one folder (under 60 MiB, and a .tar.gz of it) that measures Ringwise on a bare x86-64 Linux box
 * with a Vulkan driver, offline: Node, the package `webgpu`, the built library, the cases with their oracle, and `./start`.
 *
 *     npm run bench:bundle -- [--out bundle] [--node /path/to/bin/node] [--check]
 *
 * `--check` unpacks the .tar.gz into an empty folder and runs `./start --quick` there with an empty environment, and
 * without a network where the system lets it; it ends with 1 where that fails.
 */
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { nodeLicence, packDawn, packNode, packVulkanLoader } from "./bench-bundle/binaries.ts";
import { buildApp } from "./bench-bundle/build-app.ts";
import { checkBundle } from "./bench-bundle/check.ts";
import { expectUnderLimit, listFiles } from "./bench-bundle/contents.ts";
import { mergeVersions } from "./bench-bundle/elf.ts";
import { bundleReadme } from "./bench-bundle/readme.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const NAME = "ringwise-bench-linux-x64";

const { values } = parseArgs({
  options: {
    out: { type: "string", default: join(root, "bundle") },
    node: { type: "string", default: process.execPath },
    check: { type: "boolean", default: false },
  },
});

const say = (line: string) => console.error(line);
const mebibytes = (byteLength: number) => `${(byteLength / 2 ** 20).toFixed(1)} MiB`;

if (process.platform !== "linux" || process.arch !== "x64") {
  console.error(
    `bench:bundle: expected to be made on Linux x64, because it takes the Node that runs it; this is ${process.platform} ${process.arch}`,
  );
  process.exit(1);
}

const version = (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }).version;
let commit = "unknown";
try {
  commit = execFileSync("git", ["describe", "--always", "--dirty"], { cwd: root, encoding: "utf8" }).trim();
} catch {
  // A tarball of the sources has no history: the version says what it is.
}

const folder = join(resolve(values.out), NAME);
rmSync(folder, { recursive: true, force: true });
mkdirSync(join(folder, "LICENSES"), { recursive: true });

say("1/5 building the library and the bench");
await buildApp(root, join(folder, "app"));
const require = createRequire(import.meta.url);
const dawn = packDawn(dirname(require.resolve("webgpu")), join(folder, "app", "node_modules", "webgpu"));
say("2/5 packing Node");
const node = packNode(values.node, join(folder, "node"));
say("3/5 a Vulkan loader for boxes without one");
const loader = packVulkanLoader(join(folder, "lib"));
if (!loader) say("    this machine has none to take along: the box must have its own");

const needs = mergeVersions([node, dawn, ...(loader ? [{ needs: loader }] : [])].map((part) => part.needs.versions));
const { GLIBC: glibc, GLIBCXX: glibcxx } = needs;
if (!glibc || !glibcxx)
  throw new Error(`bench:bundle: expected needs of glibc and libstdc++, got ${JSON.stringify(needs)}`);

say("4/5 start script, texts, manifest");
const start = readFileSync(join(root, "bench", "bundle", "start"), "utf8")
  .replaceAll("@GLIBCXX@", glibcxx)
  .replaceAll("@GLIBC@", glibc)
  .replaceAll("@NODE@", node.version)
  .replaceAll("@NODE_MIB@", String(Math.ceil(node.unpackedByteLength / 2 ** 20)));
writeFileSync(join(folder, "start"), start, { mode: 0o755 });
cpSync(join(root, "bench", "bundle", "torch_bench.py"), join(folder, "app", "torch_bench.py"));
cpSync(join(root, "LICENSE"), join(folder, "LICENSE"));
cpSync(nodeLicence(values.node), join(folder, "LICENSES", "node.txt"));
const parts = { ringwise: version, commit, node: node.version, webgpu: dawn.version, glibc, glibcxx };
const date = new Date().toISOString().slice(0, 10);
const facts = { ...parts, date, hasLoader: loader !== undefined, nodeByteLength: node.unpackedByteLength };
writeFileSync(join(folder, "README.md"), bundleReadme(facts));
writeFileSync(join(folder, "manifest.json"), `${JSON.stringify({ ...facts, files: listFiles(folder) }, null, 1)}\n`);
const byteLength = expectUnderLimit(listFiles(folder));

say("5/5 packing it up");
const archive = `${folder}.tar.gz`;
execFileSync("tar", [
  ...["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-czf", archive],
  ...["-C", dirname(folder), NAME],
]);
console.log(`${folder} (${mebibytes(byteLength)})\n${archive} (${mebibytes(statSync(archive).size)})`);
console.log(`needs glibc ${glibc}, libstdc++ with GLIBCXX_${glibcxx}; Node ${node.version}, webgpu ${dawn.version}`);
if (values.check) process.exitCode = (await checkBundle(archive, say)) ? 0 : 1;
