/** The GPU room by itself: buffers, the ledger, uniforms, compile errors, and the loss of a device. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  DeviceLostError,
  GpuMemoryError,
  OptionError,
  ShaderCompileError,
  ShapeError,
  UnsupportedDeviceError,
} from "../../src/errors.ts";
import { allocate, allocateAll, read, release, upload, viewOf, write } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { explainFailure, lossSignal } from "../../src/gpu/device-loss.ts";
import { dispatch, uniforms } from "../../src/gpu/dispatch.ts";
import { ledgerOf, MemoryLedger } from "../../src/gpu/ledger.ts";
import { getKernel } from "../../src/gpu/pipeline.ts";
import { type KernelSource, specialize } from "../../src/gpu/specialize.ts";
import { createAdd } from "../../src/kernels/add.ts";
import { createTokenCopier } from "../../src/kernels/copy-tokens.ts";
import { createEmbed } from "../../src/kernels/embed.ts";
import { createMatmul } from "../../src/kernels/matmul.ts";
import { createMlp } from "../../src/kernels/mlp.ts";
import { createRmsNorm } from "../../src/kernels/rmsnorm.ts";
import { createRope } from "../../src/kernels/rope.ts";

let device: GPUDevice;
/** A device without features: the adapter may have f16, the device then has not asked for it. */
let plain: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
  plain = await (await navigator.gpu.requestAdapter())!.requestDevice();
});
afterAll(() => {
  device.destroy();
  plain.destroy();
});

const held = () => ledgerOf(device).total.bytes;
const BYTES = Uint8Array.from({ length: 16 }, (_, i) => i + 1);

describe("read", () => {
  it("gives the caller's own bytes, from anywhere within a word", async () => {
    const before = held();
    const buffer = await upload(device, "words", BYTES);
    const at = async (byteOffset: number, byteLength?: number) => [
      ...new Uint8Array(await read(device, { buffer, byteOffset, byteLength })),
    ];
    expect(await at(0)).toEqual([...BYTES]);
    expect(await at(2, 2)).toEqual([3, 4]);
    expect(await at(6)).toEqual([7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    expect(await at(3, 3)).toEqual([4, 5, 6]);
    expect(await at(14, 2)).toEqual([15, 16]);
    expect(await at(4, 0)).toEqual([]);
    release(buffer);
    expect(held()).toBe(before);
  });

  it("refuses what a copy cannot do, and holds nothing afterwards", async () => {
    const before = held();
    const buffer = await upload(device, "words", BYTES);
    const mute = await allocate(device, { label: "mute", byteLength: 16, usage: 0x80 | 0x8 });
    await expect(read(device, mute)).rejects.toThrow(
      new OptionError('read: expected buffer "mute" to have usage COPY_SRC, got usage 0x88'),
    );
    await expect(read(device, { buffer, byteOffset: 8, byteLength: 12 })).rejects.toThrow(
      new ShapeError('read: expected bytes 8 to 20 (whole words) within buffer "words", got one of 16 bytes'),
    );
    for (const view of [{ byteOffset: -4 }, { byteOffset: 20 }, { byteOffset: 15, byteLength: 2 }])
      await expect(read(device, { buffer, ...view })).rejects.toThrow(ShapeError);
    for (const each of [buffer, mute]) release(each);
    expect(held()).toBe(before);
  });
});

describe("allocate", () => {
  it("rounds sizes up to words, enters them, and strikes them off once", async () => {
    const before = held();
    const own = new MemoryLedger();
    const buffers = await allocateAll(device, [
      { label: "none", byteLength: 0 },
      { label: "odd", byteLength: 21, owner: "test", ledger: own },
    ]);
    expect(buffers.map(({ size }) => size)).toEqual([16, 24]);
    expect(held() - before).toBe(40);
    expect([ledgerOf(device).of("test").bytes, own.of("test").bytes, own.total.bytes]).toEqual([24, 24, 24]);
    write(device, buffers[1]!, 0, BYTES.subarray(0, 7));
    expect([...new Uint8Array(await read(device, { buffer: buffers[1]!, byteLength: 8 }))]).toEqual([
      ...BYTES.subarray(0, 7),
      0,
    ]);
    for (const buffer of [...buffers, ...buffers, undefined]) release(buffer);
    expect([held(), own.total.bytes, own.total.peakBytes]).toEqual([before, 0, 24]);
  });

  it("names the sizes where a buffer is too large, takes none of the others, and leaves the ledger as it was", async () => {
    const before = held();
    const most = device.limits.maxBufferSize;
    const list = [
      { label: "fits", byteLength: 64 },
      { label: "giant", byteLength: most + 4 },
    ];
    const failure = await allocateAll(device, list).catch((error: unknown) => error);
    expect(failure).toEqual(
      new GpuMemoryError(
        `allocate("giant"): ${most + 4} bytes asked for, and this device allows at most ${most} in one buffer (maxBufferSize)`,
        most + 4,
      ),
    );
    expect((failure as GpuMemoryError).byteLength).toBe(most + 4);
    expect(held()).toBe(before);
  });

  it("names the sizes where the GPU itself refuses", async () => {
    const before = held();
    // A usage that no buffer may have: refused by the device, not by our own check.
    const failure = await allocate(device, { label: "odd usage", byteLength: 64, usage: 0x1 | 0x80 }).catch(
      (error: unknown) => error,
    );
    expect(failure).toBeInstanceOf(GpuMemoryError);
    expect((failure as GpuMemoryError).message).toMatch(
      new RegExp(
        `^allocate\\("odd usage"\\): the GPU refused 64 bytes \\(held so far: ${before}; maxBufferSize ${device.limits.maxBufferSize}\\): `,
      ),
    );
    expect(held()).toBe(before);
  });

  it.each([Number.NaN, -5, 1.5, Number.POSITIVE_INFINITY])("refuses %d bytes", async (byteLength) => {
    const before = held();
    await expect(allocate(device, { label: "x", byteLength })).rejects.toThrow(
      new OptionError(`allocate("x"): expected byteLength to be an integer of at least 0, got ${byteLength}`),
    );
    expect(held()).toBe(before);
  });

  it("a view of a whole buffer reaches to its end", async () => {
    const buffer = await allocate(device, { label: "view", byteLength: 32 });
    expect(viewOf(buffer)).toEqual({ buffer, byteOffset: 0, byteLength: 32 });
    expect(viewOf({ buffer, byteOffset: 8 })).toEqual({ buffer, byteOffset: 8, byteLength: 24 });
    release(buffer);
  });
});

/** Writes the uniform's second number where the first says. */
const STAMP: KernelSource = {
  file: "stamp.wgsl",
  code: `struct Params { index: u32, value: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> output: array<u32>;
@compute @workgroup_size(1) fn main() { output[params.index] = params.value; }`,
};

it("more different uniform blocks than an arena's first page holds, in one encoder, each read as it was written", async () => {
  const count = 4096 + 300;
  const kernel = await getKernel(device, {
    label: "stamp.wgsl",
    source: specialize(STAMP),
    bindings: ["uniform", "read-write"],
  });
  const output = await allocate(device, { label: "stamps", byteLength: count * 4 });
  const stamps = () =>
    Promise.all([read(device, output)]).then(([bytes]) => new Uint32Array(bytes!.slice(0, count * 4)));
  for (const round of [0, 1]) {
    const value = (index: number) => (index * 7 + round * 1_000_003 + 1) >>> 0;
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let index = 0; index < count; index++) {
      const params = uniforms(device, [{ u32: index }, { u32: value(index) }]);
      dispatch(device, pass, { kernel, bindings: [params, output], workgroups: [1] });
    }
    pass.end();
    device.queue.submit([encoder.finish()]);
    expect(await stamps()).toEqual(Uint32Array.from({ length: count }, (_, index) => value(index)));
  }
  release(output);
});

it("an encoder that waits while other blocks are written reads its own, or fails loudly: never another's", async () => {
  const kernel = await getKernel(device, {
    label: "stamp.wgsl",
    source: specialize(STAMP),
    bindings: ["uniform", "read-write"],
  });
  const output = await allocate(device, { label: "stamps", byteLength: 16 });
  const encodeOpen = (value: number) => {
    const encoder = device.createCommandEncoder();
    const bindings = [uniforms(device, [{ u32: 0 }, { u32: value }]), output];
    dispatch(device, encoder, { kernel, bindings, workgroups: [1] });
    return encoder;
  };
  // Each in a synchronous run of its own, as calls are that are awaited one by one.
  const writeOthers = async (count: number, from: number) => {
    for (let index = 0; index < count; index++) {
      uniforms(device, [{ u32: 2 }, { u32: from + index }]);
      if (index % 1000 === 0) await Promise.resolve();
    }
  };
  const waiting = encodeOpen(1234);
  await writeOthers(6000, 1_000_000);
  device.queue.submit([waiting.finish()]);
  expect(new Uint32Array(await read(device, output))[0]).toBe(1234);

  const forgotten = encodeOpen(5678);
  const before = held();
  await writeOthers(24_000, 2_000_000);
  expect(held() - before).toBeLessThanOrEqual(2 ** 22);
  device.pushErrorScope("validation");
  device.queue.submit([forgotten.finish()]);
  expect((await device.popErrorScope())?.message).toContain("ringwise uniforms");
  expect(new Uint32Array(await read(device, output))[0]).toBe(1234);
  release(output);
});

describe("compile errors show file, line and the offending line", () => {
  const compile = (kernel: KernelSource, on = device) =>
    getKernel(on, { label: `${kernel.file} test`, source: specialize(kernel), bindings: ["read-write"] });
  const failure = async (promise: Promise<unknown>) => {
    const error = await promise.then(
      () => new Error("compiled"),
      (reason: unknown) => reason as Error,
    );
    expect(error).toBeInstanceOf(ShaderCompileError);
    return error.message;
  };
  const main = (line: string) =>
    `@group(0) @binding(0) var<storage, read_write> output: array<f32>;\n\n@compute @workgroup_size(1) fn main() {\n  ${line}\n}\n`;

  it("in the kernel's own file", async () => {
    const message = await failure(compile({ file: "broken.wgsl", code: main("output[0] = missing_name;") }));
    expect(message).toContain("broken.wgsl test: broken.wgsl: line 4, column 15: ");
    expect(message).toContain("missing_name");
    expect(message).toContain("\n      output[0] = missing_name;");
  });

  it("in a lib file", async () => {
    const lib = { file: "lib/part.wgsl", code: "fn part() -> f32 {\n  return true;\n}\n" };
    const message = await failure(compile({ file: "whole.wgsl", code: main("output[0] = part();"), lib: [lib] }));
    expect(message).toContain("lib/part.wgsl: line 2, column ");
    expect(message).toContain("return true;");
  });

  it("below an enable that specialize put on top", async (context) => {
    if (!device.features.has("subgroups")) context.skip("this adapter has no subgroups");
    const code = main("output[0] = subgroupAdd(missing_name);");
    const message = await failure(compile({ file: "group.wgsl", code }));
    expect(message).toContain("group.wgsl: line 4, column ");
  });

  it("in a line that specialize put on top", async () => {
    const message = await failure(compile({ file: "half.wgsl", code: main("output[0] = f32(f16(1));") }, plain));
    expect(message).toContain("half.wgsl test, added by specialize(): line 1, column ");
    expect(message).toContain("\n    enable f16;");
  });

  it("in a source that is no file's", async () => {
    const source = main("output[0] = missing_name;");
    const message = await failure(getKernel(device, { label: "text", source, bindings: ["read-write"] }));
    expect(message).toContain("text: text: line 4, column 15: ");
  });
});

it("kernels with f16 activations refuse a device without it by name", async () => {
  const dtype = "f16";
  const weightDtype = "f32";
  const sizes = { hiddenSize: 8, intermediateSize: 8, mlpChunkSize: 4, gated: true };
  const all = {
    add: () => createAdd(plain, dtype),
    createTokenCopier: () => createTokenCopier(plain, dtype),
    embed: () => createEmbed(plain, { dtype, weightDtype }),
    createMatmul: () => createMatmul(plain, { dtype, weightDtype }),
    mlp: () => createMlp(plain, { ...sizes, dtype, weightDtype, activation: "silu" }),
    rmsNorm: () => createRmsNorm(plain, { dtype, weightDtype, eps: 1e-5 }),
    rope: () => createRope(plain, { dtype, headDim: 8 }),
  };
  for (const [where, create] of Object.entries(all))
    await expect(create(), where).rejects.toThrow(
      new UnsupportedDeviceError(
        `${where}: dtype "f16" needs the device feature shader-f16, which is absent; use "f32"`,
      ),
    );
});

describe("the loss of a device", () => {
  it("aborts one signal, with a reason that names it", async () => {
    const other = await requestRingwiseDevice();
    const signal = lossSignal(other);
    expect(lossSignal(other)).toBe(signal);
    expect(signal.aborted).toBe(false);
    const unrelated = new Error("unrelated");
    expect(await explainFailure(other, unrelated)).toBe(unrelated);
    other.destroy();
    await other.lost;
    expect(await explainFailure(other, unrelated)).toBe(signal.reason);
    expect(signal.reason).toBeInstanceOf(DeviceLostError);
    expect((signal.reason as Error).message).toMatch(/^the GPU device was lost \(destroyed\): /);
  });
});
