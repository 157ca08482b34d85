/** Getting a GPUDevice with everything the adapter offers, and saying plainly why there is none. */
import { UnsupportedDeviceError } from "../errors.ts";
import type { Dtype } from "../shape.ts";

/** What {@link requestRingwiseDevice} asks for. */
export interface DeviceOptions {
  /** Where to look for WebGPU: `navigator.gpu` unless given (in Node: `create([])` of the npm package `webgpu`). */
  gpu?: GPU;
  /** An adapter that was already chosen. */
  adapter?: GPUAdapter;
  powerPreference?: GPUPowerPreference;
  /** Ask for `timestamp-query`, or fail. Off by default: on some adapters enabling it slows everything down. */
  timestamps?: boolean;
  label?: string;
}

/** Features Ringwise uses where the adapter has them. */
const WANTED_FEATURES: readonly GPUFeatureName[] = ["shader-f16", "subgroups"];

/** Limits that Ringwise raises to whatever the adapter offers. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
] as const;

/**
 * A GPUDevice with the adapter's own limits, and with `shader-f16` and `subgroups` where it has them.
 * @throws {UnsupportedDeviceError} where there is no WebGPU or no adapter, saying what a person can do about it; where the
 * adapter has no timestamps and they were asked for, or refuses a device (its own error is the cause).
 */
export async function requestRingwiseDevice(options: DeviceOptions = {}): Promise<GPUDevice> {
  const gpu = options.gpu ?? (globalThis.navigator as Navigator | undefined)?.gpu;
  if (!options.adapter && !gpu)
    throw new UnsupportedDeviceError(
      "requestRingwiseDevice: this browser has no WebGPU. Use Chrome or Edge 121 or newer, over https or localhost.",
    );
  const adapter = options.adapter ?? (await gpu!.requestAdapter({ powerPreference: options.powerPreference }));
  if (!adapter)
    throw new UnsupportedDeviceError(
      "requestRingwiseDevice: WebGPU is here but found no graphics adapter. Turn on hardware acceleration in the browser's settings, or update the graphics driver.",
    );
  const requiredFeatures = WANTED_FEATURES.filter((feature) => adapter.features.has(feature));
  if (options.timestamps) {
    if (!adapter.features.has("timestamp-query"))
      throw new UnsupportedDeviceError(
        "requestRingwiseDevice: timestamps: true needs the adapter feature timestamp-query, which is absent; leave timestamps out",
      );
    requiredFeatures.push("timestamp-query");
  }
  const requiredLimits: Record<string, number> = {};
  for (const limit of WANTED_LIMITS) requiredLimits[limit] = adapter.limits[limit];
  try {
    return await adapter.requestDevice({ label: options.label ?? "ringwise", requiredFeatures, requiredLimits });
  } catch (error) {
    throw new UnsupportedDeviceError(
      `requestRingwiseDevice: the adapter refused a device: ${error instanceof Error ? error.message : error}`,
      { cause: error },
    );
  }
}

/** Checks that kernels of this dtype compile on the device. @throws {UnsupportedDeviceError} for f16 without `shader-f16`. */
export function expectF16(where: string, device: GPUDevice, dtype: Dtype): void {
  if (dtype !== "f16" || device.features.has("shader-f16")) return;
  throw new UnsupportedDeviceError(
    `${where}: dtype "f16" needs the device feature shader-f16, which is absent; use "f32"`,
  );
}

/** What the host needs to know to choose a kernel: read from the adapter, never from inside a shader. */
export interface AdapterDescription {
  /** e.g. "google / swiftshader", one line for reports and for tuned data. */
  name: string;
  vendor: string;
  architecture: string;
  description: string;
  /** True for adapters that run on the CPU (SwiftShader, lavapipe): there barriers are what costs. */
  isCpu: boolean;
  hasF16: boolean;
  hasSubgroups: boolean;
  /** 0 where unknown. */
  subgroupMinSize: number;
  subgroupMaxSize: number;
}

/** Describes the adapter behind a device. */
export function describeAdapter(device: GPUDevice): AdapterDescription {
  // Typed as always present, but absent in older browsers.
  const info = device.adapterInfo as GPUAdapterInfo | undefined;
  const vendor = info?.vendor ?? "";
  const architecture = info?.architecture ?? "";
  const description = info?.description ?? "";
  const all = `${vendor} ${architecture} ${description} ${info?.device ?? ""}`.toLowerCase();
  return {
    name: [vendor, architecture, description].filter(Boolean).join(" / ") || "unknown adapter",
    vendor,
    architecture,
    description,
    isCpu: info?.isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|basic render/.test(all),
    hasF16: device.features.has("shader-f16"),
    hasSubgroups: device.features.has("subgroups"),
    subgroupMinSize: info?.subgroupMinSize ?? 0,
    subgroupMaxSize: info?.subgroupMaxSize ?? 0,
  };
}
