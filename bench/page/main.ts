/** The page's side of src/cli/harness.ts: runs a job on this page's GPU, in the code that Node runs too. */
import { type GenerateJob, runGenerate } from "../../src/cli/generate-job.ts";
import type { JobAnswer } from "../../src/cli/harness-answer.ts";
import type { JobEvent } from "../../src/cli/job-progress.ts";
import { requestRingwiseDevice } from "../../src/index.ts";
import { type NeedleJob, runNeedle } from "../jobs/needle.ts";
import { runBench } from "../jobs/run.ts";
import { runSoak, type SoakJob } from "../jobs/soak.ts";
import { runTune, type TuneJob } from "../jobs/tune.ts";
import type { BenchJob } from "../result-types.ts";

declare global {
  /** Put here by the host: takes events while a job runs. */
  var ringwiseEmit: (event: unknown) => Promise<void>;
  var ringwiseHarness: (name: string, job: unknown) => Promise<JobAnswer<unknown>>;
}

const JOBS: Record<string, (device: GPUDevice, job: never) => Promise<unknown>> = {
  generate(device, { source, job }: { source: string; job: GenerateJob }) {
    // "/model/" is a folder that the host serves; everything else loadModel takes as it is.
    const place = source.startsWith("/") ? new URL(source, location.href) : source;
    return runGenerate(device, place, job, (event: JobEvent) => void ringwiseEmit(event));
  },
  soak: (device, { source, job }: { source: string; job: SoakJob }) =>
    runSoak(device, new URL(source, location.href), job, (sample) => void ringwiseEmit(sample)),
  needle: (device, { source, job }: { source: string; job: NeedleJob }) =>
    runNeedle(device, new URL(source, location.href), job, (cell) => void ringwiseEmit(cell)),
  bench: (device, job: BenchJob) => runBench(device, job, (event) => void ringwiseEmit(event)),
  tune: (device, job: TuneJob) => runTune(device, job, (event) => void ringwiseEmit(event)),
};

globalThis.ringwiseHarness = async (name, job) => {
  try {
    const run = JOBS[name];
    if (!run) throw new Error(`ringwiseHarness: no job named "${name}"`);
    const device = await requestRingwiseDevice();
    try {
      return { ok: true, result: await run(device, job as never) };
    } finally {
      device.destroy();
    }
  } catch (error) {
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    return { ok: false, name, message };
  }
};
