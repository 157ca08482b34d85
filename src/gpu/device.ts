/** Getting a GPUDevice with everything the adapter offers, and saying plainly why there is none. */
import { UnsupportedDeviceError } from "../errors.ts";

/** What {@link requestRingwiseDevice} asks for. */
export interface DeviceOptions {
  /** Where to look for WebGPU: `navigator.gpu` unless given (in Node: `create([])` of the npm package `webgpu`). */
  gpu?: GPU;
  /** An adapter that was already chosen. */
  adapter?: GPUAdapter;
  powerPreference?: GPUPowerPreference;
  /** Ask for `timestamp-query`. Off by default: on some adapters enabling it slows everything down. */
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
 * @throws {UnsupportedDeviceError} where there is no WebGPU or no adapter, saying what a person can do about it.
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
  if (options.timestamps && adapter.features.has("timestamp-query")) requiredFeatures.push("timestamp-query");
  const requiredLimits: Record<string, number> = {};
  for (const limit of WANTED_LIMITS) requiredLimits[limit] = adapter.limits[limit];
  return adapter.requestDevice({ label: options.label ?? "ringwise", requiredFeatures, requiredLimits });
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
