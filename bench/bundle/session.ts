/** One run of `./start`: what it was asked, what it found so far, and the files that hold it. */
import { accessSync, constants, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import { UsageError } from "../../src/cli/errors.ts";
import { type AdapterDescription, describeAdapter } from "../../src/index.ts";
import { documentMarkdown } from "../benchmarks/document-markdown.ts";
import type { BenchDocument } from "../result-types.ts";
import type { ConformanceResult } from "./conformance.ts";
import { bundleMarkdown } from "./markdown.ts";
import type { BundleOptions } from "./options.ts";

/** The run, as its stages see it. */
export interface Session {
  device: GPUDevice;
  adapter: AdapterDescription;
  options: BundleOptions;
  document: BenchDocument;
  correctness: ConformanceResult[];
  /** Milliseconds since the run began. */
  elapsedMs(): number;
  /** A line of progress. */
  say(line: string): void;
  /** A sentence that belongs into the report too. */
  note(sentence: string): void;
  /** Writes a file into the output folder. */
  write(name: string, text: string): void;
  /** Writes everything so far: a run that is cut off leaves what it had. */
  save(): void;
  /** Why the device was lost; undefined while it is there. */
  lost(): string | undefined;
}

/** What the maker of the bundle wrote down about it, in manifest.json. */
export interface Manifest {
  ringwise: string;
  commit: string;
  webgpu: string;
}

/** The output folder, made where it is not there. @throws {UsageError} where it cannot be written */
export function outputFolder(out: string): string {
  const folder = resolve(out);
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return folder;
  } catch (error) {
    throw new UsageError(`--out ${folder}: expected a folder that can be written: ${(error as Error).message}`);
  }
}

/** NVIDIA's kernel driver, where there is one: Vulkan names it in numbers of its own. */
function nvidiaDriver(): string | undefined {
  const file = "/proc/driver/nvidia/version";
  return existsSync(file) ? /(\d+\.\d+(?:\.\d+)?)\s/.exec(readFileSync(file, "utf8"))?.[1] : undefined;
}

/** Lets a message through every so many seconds: a GPU is done with hundreds of checks in that time. */
export function everySeconds<T>(seconds: number, tell: (message: T) => void): (message: T) => void {
  let lastMs = Number.NEGATIVE_INFINITY;
  return (message) => {
    if (performance.now() - lastMs < 1000 * seconds) return;
    lastMs = performance.now();
    tell(message);
  };
}

/** Opens the run on a device: names it, and says what is odd about it. */
export function openSession(device: GPUDevice, options: BundleOptions, manifest: Manifest, folder: string): Session {
  const startMs = performance.now();
  const adapter = describeAdapter(device);
  const driver = nvidiaDriver();
  const notes: string[] = [];
  let lost: string | undefined;
  void device.lost.then(({ reason, message }) => {
    if (reason !== "destroyed") lost = message;
  });
  const session: Session = {
    ...{ device, adapter, options, correctness: [] },
    document: {
      ringwise: manifest.ringwise,
      date: new Date().toISOString(),
      runtime: "node",
      host: `Node ${process.version}`,
      machine: `${cpus().length} x ${cpus()[0]?.model ?? "unknown processor"}`,
      adapter: adapter.name,
      command: ["./start", ...process.argv.slice(2)].join(" "),
      versions: {
        ...{ ringwise: `${manifest.ringwise} (${manifest.commit})`, node: process.version, webgpu: manifest.webgpu },
        ...(driver && { "nvidia driver": driver }),
      },
      results: [],
    },
    elapsedMs: () => performance.now() - startMs,
    say: (line) => console.error(`[${(session.elapsedMs() / 1000).toFixed(0).padStart(4)} s] ${line}`),
    note(sentence) {
      notes.push(sentence);
      session.say(sentence);
    },
    write: (name, text) => writeFileSync(join(folder, name), text),
    save() {
      const { document, correctness } = session;
      session.write("correctness.json", `${JSON.stringify(correctness, null, 1)}\n`);
      session.write("results.json", `${JSON.stringify(document, null, 1)}\n`);
      const tables = document.results.length > 0 ? documentMarkdown(document) : "";
      session.write("results.md", bundleMarkdown({ document, correctness, notes }, tables));
    },
    lost: () => lost,
  };
  session.say(`adapter: ${adapter.name}; f16 ${adapter.hasF16 ? "yes" : "no"}`);
  if (adapter.isCpu && existsSync("/dev/nvidia0"))
    session.note("This adapter runs on the processor although an NVIDIA GPU is there: its Vulkan driver did not load.");
  if (!adapter.hasF16) session.note("The adapter has no shader-f16: every figure is f32.");
  return session;
}
