/** Getting a device, and what is said of its adapter. */
import { describe, expect, it } from "vitest";
import { UnsupportedDeviceError } from "../../src/errors.ts";
import { type DeviceOptions, describeAdapter, requestRingwiseDevice } from "../../src/gpu/device.ts";

/** The adapter of this browser, asked anew: an adapter gives one device only. */
const requestAdapter = async () => (await navigator.gpu.requestAdapter())!;

/** An adapter like this browser's, but for some of its properties. */
async function adapterWith(changes: Partial<GPUAdapter>): Promise<GPUAdapter> {
  const adapter = await requestAdapter();
  return new Proxy(adapter, {
    get(target, name) {
      if (name in changes) return changes[name as keyof GPUAdapter];
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

describe("requestRingwiseDevice", () => {
  it("raises the limits to the adapter's, and takes the features that it has", async () => {
    const adapter = await requestAdapter();
    const device = await requestRingwiseDevice({ label: "mine" });
    expect(device.label).toBe("mine");
    for (const limit of ["maxBufferSize", "maxStorageBufferBindingSize", "maxStorageBuffersPerShaderStage"] as const)
      expect(device.limits[limit]).toBe(adapter.limits[limit]);
    for (const feature of ["shader-f16", "subgroups"])
      expect(device.features.has(feature)).toBe(adapter.features.has(feature));
    expect(device.features.has("timestamp-query")).toBe(false);
    device.destroy();
  });

  it("takes an adapter that was chosen, or the GPU given", async () => {
    const adapter = await requestAdapter();
    const device = await requestRingwiseDevice({ adapter });
    expect(device.label).toBe("ringwise");
    device.destroy();
    let asked: GPURequestAdapterOptions | undefined;
    const gpu = {
      requestAdapter: (options: GPURequestAdapterOptions) => {
        asked = options;
        return requestAdapter();
      },
    } as unknown as GPU;
    (await requestRingwiseDevice({ gpu, powerPreference: "low-power" })).destroy();
    expect(asked).toEqual({ powerPreference: "low-power" });
  });

  it("asks for timestamps only where told to, and says so where there are none", async () => {
    const withThem = await requestAdapter();
    if (withThem.features.has("timestamp-query")) {
      const device = await requestRingwiseDevice({ adapter: withThem, timestamps: true });
      expect(device.features.has("timestamp-query")).toBe(true);
      device.destroy();
    }
    const adapter = await adapterWith({ features: new Set() as unknown as GPUSupportedFeatures });
    await expect(requestRingwiseDevice({ adapter, timestamps: true })).rejects.toThrow(
      new UnsupportedDeviceError(
        "requestRingwiseDevice: timestamps: true needs the adapter feature timestamp-query, which is absent; leave timestamps out",
      ),
    );
    const device = await requestRingwiseDevice({ adapter });
    expect([device.features.has("shader-f16"), device.features.has("subgroups")]).toEqual([false, false]);
    device.destroy();
  });

  it.each<[string, DeviceOptions, string]>([
    [
      "no adapter",
      { gpu: { requestAdapter: async () => null } as unknown as GPU },
      "requestRingwiseDevice: WebGPU is here but found no graphics adapter. Turn on hardware acceleration in the browser's settings, or update the graphics driver.",
    ],
    [
      "no WebGPU",
      { gpu: null as unknown as GPU },
      "requestRingwiseDevice: this browser has no WebGPU. Use Chrome or Edge 121 or newer, over https or localhost.",
    ],
  ])("says what to do: %s", async (name, options, message) => {
    const own = Object.getOwnPropertyDescriptor(navigator, "gpu");
    if (name === "no WebGPU") Object.defineProperty(navigator, "gpu", { value: undefined, configurable: true });
    try {
      await expect(requestRingwiseDevice(options)).rejects.toThrow(new UnsupportedDeviceError(message));
    } finally {
      if (own) Object.defineProperty(navigator, "gpu", own);
      else Reflect.deleteProperty(navigator, "gpu");
    }
  });

  it("names itself where the adapter refuses a device, and keeps the adapter's own error", async () => {
    const cause = new DOMException("adapter was used up", "OperationError");
    const adapter = await adapterWith({ requestDevice: () => Promise.reject(cause) });
    const failure = await requestRingwiseDevice({ adapter }).catch((error: unknown) => error as Error);
    expect(failure).toEqual(
      new UnsupportedDeviceError("requestRingwiseDevice: the adapter refused a device: adapter was used up"),
    );
    expect((failure as Error).cause).toBe(cause);
  });
});

describe("describeAdapter", () => {
  const describe_ = (info: Partial<GPUAdapterInfo> | undefined, features: string[] = []) =>
    describeAdapter({ adapterInfo: info, features: new Set(features) } as unknown as GPUDevice);

  it("describes this browser's adapter", async () => {
    const device = await requestRingwiseDevice();
    const { info } = await requestAdapter();
    const got = describeAdapter(device);
    expect([got.vendor, got.architecture, got.description]).toEqual([info.vendor, info.architecture, info.description]);
    expect(got.hasSubgroups).toBe(device.features.has("subgroups"));
    expect([got.subgroupMinSize, got.subgroupMaxSize]).toEqual([info.subgroupMinSize ?? 0, info.subgroupMaxSize ?? 0]);
    device.destroy();
  });

  it.each([
    [{ vendor: "google", architecture: "swiftshader" }, "google / swiftshader", true],
    [
      { vendor: "mesa", description: "llvmpipe (LLVM 15.0.6, 256 bits)" },
      "mesa / llvmpipe (LLVM 15.0.6, 256 bits)",
      true,
    ],
    [{ vendor: "microsoft", device: "Basic Render Driver" }, "microsoft", true],
    [{ vendor: "acme", isFallbackAdapter: true }, "acme", true],
    [{ vendor: "nvidia", architecture: "hopper" }, "nvidia / hopper", false],
    [undefined, "unknown adapter", false],
  ])("%o: %s, on the CPU: %s", (info, name, isCpu) => {
    expect(describe_(info)).toMatchObject({ name, isCpu, hasF16: false, subgroupMinSize: 0 });
  });

  it("tells the features of the device, not of the adapter", () => {
    expect(describe_({ vendor: "x" }, ["shader-f16"])).toMatchObject({ hasF16: true, hasSubgroups: false });
    expect(describe_({ subgroupMinSize: 4, subgroupMaxSize: 8 }, ["subgroups"])).toMatchObject({
      ...{ hasSubgroups: true, subgroupMinSize: 4, subgroupMaxSize: 8 },
    });
  });
});
