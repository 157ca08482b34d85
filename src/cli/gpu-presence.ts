/** Whether this machine shows a GPU: kept apart from chrome.ts, because WebGPU in Node asks it without any Chrome. */
import { existsSync } from "node:fs";

/** Whether a GPU that Chrome or Dawn may use is likely present; without one the SwiftShader adapter (CPU) is named outright. */
export function hasGpu(): boolean {
  if (process.platform !== "linux") return true;
  return existsSync("/dev/dri") || existsSync("/dev/nvidia0") || existsSync("/dev/dxg");
}
