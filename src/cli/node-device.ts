/** WebGPU in Node through the npm package `webgpu` (Dawn), an optional dependency. */
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { requestRingwiseDevice } from "../index.ts";
import { UsageError } from "./errors.ts";
import { hasGpu } from "./gpu-presence.ts";

/** Folders in which Linux keeps the drivers' descriptions, and Chrome its own SwiftShader. */
const SYSTEM_ICD_FOLDERS = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
const CHROMIUM_FOLDERS = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"];

/** SwiftShader's description in the folder of a Chrome that is on this machine. */
export async function findSwiftShaderIcd(): Promise<string | undefined> {
  // Imported here: who runs on Dawn alone (the bench bundle) has neither Chrome nor Puppeteer.
  const chrome = await import("./chrome.ts")
    .then(({ findInstalledChrome }) => findInstalledChrome())
    .catch(() => undefined);
  const folders = [...(chrome ? [dirname(realpathSync(chrome))] : []), ...CHROMIUM_FOLDERS];
  return folders.map((folder) => join(folder, "vk_swiftshader_icd.json")).find(existsSync);
}

function findLavapipeIcd(): string | undefined {
  const names = ["lvp_icd.json", `lvp_icd.${process.arch === "arm64" ? "aarch64" : "x86_64"}.json`];
  return SYSTEM_ICD_FOLDERS.flatMap((folder) => names.map((name) => join(folder, name))).find(existsSync);
}

/**
 * Names the Vulkan driver in the environment before the loader is first used. Without a name: SwiftShader exactly where
 * the machine shows no GPU, as in Chrome.
 * @returns the `adapter=` flag for Dawn, where the name is not one of a CPU driver
 */
async function chooseDriver(adapter: string | undefined): Promise<string[]> {
  const name = adapter ?? process.env.RINGWISE_ADAPTER ?? (hasGpu() ? "default" : "swiftshader");
  if (name === "default") return [];
  if (name !== "swiftshader" && name !== "lavapipe") return [`adapter=${name}`];
  // A driver that the caller has named stays; on macOS and Windows there is no Vulkan loader to steer.
  if (process.platform !== "linux" || process.env.VK_ICD_FILENAMES || process.env.VK_DRIVER_FILES) return [];
  const icd = name === "swiftshader" ? await findSwiftShaderIcd() : findLavapipeIcd();
  if (icd) process.env.VK_ICD_FILENAMES = icd;
  else if (adapter) throw new UsageError(`--adapter ${adapter}: its Vulkan driver is not on this machine`);
  return [];
}

/** Dawn crashes when the object that `create` returns is collected while a device lives. */
let keptGpu: GPU | undefined;

/**
 * A device in Node.
 * @param adapter "swiftshader", "lavapipe", "default", or a part of an adapter's name as Dawn lists it
 * @throws {UsageError} where the package is missing or no adapter has that name
 */
export async function createNodeDevice(adapter?: string): Promise<GPUDevice> {
  const flags = await chooseDriver(adapter);
  const webgpu = await import("webgpu").catch((error: Error) => {
    throw new UsageError(
      `--runtime node needs the npm package "webgpu" ("npm install webgpu"): ${error.message.split("\n")[0]}`,
    );
  });
  Object.assign(globalThis, webgpu.globals);
  try {
    keptGpu ??= webgpu.create(flags);
    return await requestRingwiseDevice({ gpu: keptGpu });
  } catch (error) {
    if (flags.length > 0) throw new UsageError(`--adapter ${adapter}: ${(error as Error).message}`);
    throw error;
  }
}
