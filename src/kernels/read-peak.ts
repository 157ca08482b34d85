/** The adapter's read bandwidth: how many bytes per second it reads from a large buffer when nothing else is in the way. */
import { allocateAll, release } from "../gpu/buffers.ts";
import { type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel, type Kernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { READ_PEAK } from "./sources.ts";

/** Reading of a known number of bytes, to be timed beside a kernel. */
export interface ReadProbe {
  /** Encodes one run: the whole buffer is read once. */
  encode(target: CommandTarget): void;
  /** Bytes that one run reads: at least what was asked for. */
  byteLength: number;
  /** The way of reading that was fastest here, e.g. "runs of 512". */
  way: string;
  /** GB/s of every way that was tried, the best of three runs each. */
  tried: Record<string, number>;
  /** Frees its buffers; runs that are submitted still end. */
  destroy(): void;
}

const WORKGROUP_SIZE = 64;
const LOADS_PER_TURN = 8;
const BYTES_PER_LOAD = 16;
const TRIALS = 3;

/** Ways to read: see shaders/read-peak.wgsl. */
const WAYS = [
  { name: "runs of 512", TURNS: 64, INTERLEAVED: false },
  { name: "runs of 128", TURNS: 16, INTERLEAVED: false },
  { name: "interleaved, 64 each", TURNS: 8, INTERLEAVED: true },
  { name: "interleaved, 8 each", TURNS: 1, INTERLEAVED: true },
] as const;

/** A buffer of this many bytes divides evenly into workgroups in each of the ways. */
const GRAIN_BYTES = WORKGROUP_SIZE * LOADS_PER_TURN * BYTES_PER_LOAD * Math.max(...WAYS.map(({ TURNS }) => TURNS));

/**
 * Compiles read-peak.wgsl, tries every way of reading a buffer of at least `byteLength` bytes (give the case's own size:
 * what fits a cache is read faster), and keeps the fastest.
 * @throws {ShaderCompileError | GpuMemoryError}
 */
export async function createReadProbe(device: GPUDevice, byteLength: number): Promise<ReadProbe> {
  const mostBytes = Math.floor(device.limits.maxStorageBufferBindingSize / GRAIN_BYTES) * GRAIN_BYTES;
  const size = Math.min(mostBytes, Math.max(1, Math.ceil(byteLength / GRAIN_BYTES)) * GRAIN_BYTES);
  const kernels = await Promise.all(
    WAYS.map(({ TURNS, INTERLEAVED }) =>
      getKernel(device, {
        label: `${READ_PEAK.file} ${TURNS}${INTERLEAVED ? " interleaved" : ""}`,
        source: specialize(READ_PEAK, { TURNS, INTERLEAVED, WORKGROUP_SIZE }),
        bindings: ["uniform", "read", "read-write"],
      }),
    ),
  );
  const [source, result] = (await allocateAll(device, [
    { label: "read peak source", byteLength: size },
    { label: "read peak", byteLength: 256 },
  ])) as [GPUBuffer, GPUBuffer];
  const encodeWay = (kernel: Kernel, turns: number, target: CommandTarget) => {
    const invocations = size / (BYTES_PER_LOAD * LOADS_PER_TURN * turns);
    const workgroups = spreadWorkgroups(device, invocations / WORKGROUP_SIZE);
    const sizes = uniforms(device, [{ u32: invocations }, { u32: workgroups[0] }]);
    dispatch(device, target, { kernel, bindings: [sizes, source, result], workgroups });
  };
  try {
    const tried = await tryWays(device, size, (index, target) =>
      encodeWay(kernels[index]!, WAYS[index]!.TURNS, target),
    );
    const best = WAYS.reduce(
      (winner, way, index) => (tried[way.name]! > tried[WAYS[winner]!.name]! ? index : winner),
      0,
    );
    return {
      encode: (target) => encodeWay(kernels[best]!, WAYS[best]!.TURNS, target),
      ...{ byteLength: size, way: WAYS[best]!.name, tried },
      destroy: () => [source, result].forEach(release),
    };
  } catch (error) {
    [source, result].forEach(release);
    throw error;
  }
}

/** GB/s of each way: tried in turn, so that a busy moment meets all alike; the first round only warms up. */
async function tryWays(
  device: GPUDevice,
  byteLength: number,
  encode: (index: number, target: CommandTarget) => void,
): Promise<Record<string, number>> {
  const tried: Record<string, number> = {};
  for (let round = 0; round <= TRIALS; round++)
    for (const [index, { name }] of WAYS.entries()) {
      const encoder = device.createCommandEncoder({ label: "read peak" });
      encode(index, encoder);
      const startMs = performance.now();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
      const gBps = byteLength / Math.max(0.001, performance.now() - startMs) / 1e6;
      if (round > 0) tried[name] = Math.max(tried[name] ?? 0, gBps);
    }
  return tried;
}
