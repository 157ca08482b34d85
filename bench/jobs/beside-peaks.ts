/** Timing of a case in turn with what it is a share of: the adapter's FMA peak, and its read bandwidth. */
import { createFmaProbe, createReadProbe, describeAdapter } from "../../src/index.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { type Contender, type TimingOptions, timeInTurn } from "../timing.ts";

/** What one run of a case does at least. */
export interface CaseWork {
  flops: number;
  /** Bytes that must be read; given only for cases that reading bounds. */
  readBytes?: number;
}

/** Cases of more multiplications and additions than this take minutes on a CPU adapter. */
const HEAVY_FLOPS = 1e11;

/** The job's repeats, or three of them where a CPU adapter would take minutes. */
export function timingOf(device: GPUDevice, job: BenchJob, flops: number): TimingOptions {
  if (flops < HEAVY_FLOPS || !describeAdapter(device).isCpu) return job;
  return { ...job, warmups: Math.min(1, job.warmups), repeats: Math.min(3, job.repeats) };
}

/** Probes of the adapter, made once per case. */
export interface Peaks {
  /** Times the case in turn with the probes; the part of a result that follows from times. */
  time(job: BenchJob, encode: NonNullable<Contender["encode"]>): Promise<Partial<BenchResult>>;
  destroy(): void;
}

/** Makes the probes that the work asks for. @throws {GpuMemoryError} */
export async function createPeaks(device: GPUDevice, { flops, readBytes }: CaseWork): Promise<Peaks> {
  const fma = await createFmaProbe(device);
  const read = readBytes === undefined ? undefined : await createReadProbe(device, readBytes);
  return {
    async time(job, encode) {
      const contenders: Contender[] = [
        { name: "case", encode },
        { name: "fma", encode: (encoder) => fma.encode(encoder) },
      ];
      if (read) contenders.push({ name: "read", encode: (encoder) => read.encode(encoder) });
      const times = await timeInTurn(device, contenders, timingOf(device, job, flops));
      const timeMs = times.get("case")!;
      const fmaTimeMs = times.get("fma")!;
      const gflops = flops / timeMs.median / 1e6;
      const fmaPeakGflops = fma.flopCount / fmaTimeMs.median / 1e6;
      const shares = {
        timeMs,
        gflops,
        fmaPeakGflops,
        peakShare: gflops / fmaPeakGflops,
        fmaPeakSpread: fmaTimeMs.spread,
      };
      if (!read) return shares;
      const readGBps = readBytes! / timeMs.median / 1e6;
      const readPeakGBps = read.byteLength / times.get("read")!.median / 1e6;
      return { ...shares, readGBps, readPeakGBps, bandwidthShare: readGBps / readPeakGBps };
    },
    destroy() {
      fma.destroy();
      read?.destroy();
    },
  };
}
