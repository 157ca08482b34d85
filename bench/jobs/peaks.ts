/** The adapter's own peaks as results: what every share in a report is a share of. */
import { createFmaProbe, createReadProbe } from "../../src/index.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { timeInTurn } from "../timing.ts";
import { kernelsUsed } from "./kernels-used.ts";

/** Bytes that the read probe reads: more than the caches of a processor hold. */
const READ_BYTES = 64 * 2 ** 20;

/** The multiply-add peak. @throws {GpuMemoryError} */
export async function measurePeakFma(device: GPUDevice, job: BenchJob): Promise<BenchResult[]> {
  const probe = await createFmaProbe(device);
  const encode = (encoder: GPUCommandEncoder) => probe.encode(encoder);
  try {
    const timeMs = (await timeInTurn(device, [{ name: "fma", encode }], job)).get("fma")!;
    const gflops = probe.flopCount / timeMs.median / 1e6;
    const head = { case: "fma-peak", group: "bandwidth", dtype: "f32", implementation: "multiply-adds" } as const;
    return [{ ...head, timeMs, gflops, fmaPeakGflops: gflops, kernels: kernelsUsed(device, encode) }];
  } finally {
    probe.destroy();
  }
}

/** The read bandwidth, in the fastest way of reading; the other ways as figures. @throws {GpuMemoryError} */
export async function measurePeakRead(device: GPUDevice, job: BenchJob): Promise<BenchResult[]> {
  const probe = await createReadProbe(device, READ_BYTES);
  const encode = (encoder: GPUCommandEncoder) => probe.encode(encoder);
  try {
    const timeMs = (await timeInTurn(device, [{ name: "read", encode }], job)).get("read")!;
    const readGBps = probe.byteLength / timeMs.median / 1e6;
    return [
      {
        ...{ case: "read-peak", group: "bandwidth", dtype: "f32", implementation: probe.way },
        ...{ timeMs, readGBps, readPeakGBps: readGBps },
        figures: Object.fromEntries(Object.entries(probe.tried).map(([way, gBps]) => [`${way}, GB/s`, gBps])),
        kernels: kernelsUsed(device, encode),
      },
    ];
  } finally {
    probe.destroy();
  }
}
