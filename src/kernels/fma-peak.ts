/** The adapter's peak: how many multiply-adds per second it does when nothing else is in the way. */
import { allocate, release } from "../gpu/buffers.ts";
import { describeAdapter } from "../gpu/device.ts";
import { type CommandTarget, dispatch } from "../gpu/dispatch.ts";
import { getKernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { FMA_PEAK } from "./sources.ts";

/** Work of a known size, to be timed beside a kernel. */
export interface FmaProbe {
  /** Encodes one run. */
  encode(target: CommandTarget): void;
  /** Floating-point operations of one run (two per multiply-add). */
  flopCount: number;
  /** Frees its buffers; runs that are submitted still end. */
  destroy(): void;
}

const WORKGROUP_SIZE = 64;
/** Turns per invocation and operations per turn: 16 vec4 multiply-adds. */
const TURNS = 512;
const FLOPS_PER_TURN = 16 * 4 * 2;
/** Enough to fill the device, and for a clock to tell: about 20 ms on two CPU cores, about 1 ms on a large GPU. */
const WORKGROUPS_CPU = 192;
const WORKGROUPS_GPU = 16_384;

/** Compiles fma-peak.wgsl. @throws {ShaderCompileError | GpuMemoryError} */
export async function createFmaProbe(device: GPUDevice): Promise<FmaProbe> {
  const kernel = await getKernel(device, {
    label: FMA_PEAK.file,
    source: specialize(FMA_PEAK, { TURNS, WORKGROUP_SIZE }),
    bindings: ["read-write"],
  });
  const result = await allocate(device, { label: "fma peak", byteLength: 256 });
  const workgroups = describeAdapter(device).isCpu ? WORKGROUPS_CPU : WORKGROUPS_GPU;
  return {
    encode: (target) => dispatch(device, target, { kernel, bindings: [result], workgroups: [workgroups] }),
    flopCount: workgroups * WORKGROUP_SIZE * TURNS * FLOPS_PER_TURN,
    destroy: () => release(result),
  };
}

/** The adapter's multiply-add peak in GFLOP/s: best of several runs, timed on the host's clock. */
export async function measureFmaPeak(device: GPUDevice, repeats = 5): Promise<{ gflops: number }> {
  const probe = await createFmaProbe(device);
  let gflops = 0;
  for (let repeat = 0; repeat <= repeats; repeat++) {
    const encoder = device.createCommandEncoder({ label: "fma peak" });
    probe.encode(encoder);
    const startMs = performance.now();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    gflops = Math.max(gflops, probe.flopCount / (performance.now() - startMs) / 1e6);
  }
  probe.destroy();
  return { gflops };
}
