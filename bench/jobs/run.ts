/** Runs bench cases on a device, one after another: the same code in the driven page and in Node. */
import { describeAdapter } from "../../src/index.ts";
import { findCase } from "../cases.ts";
import type { BenchAnswer, BenchEvent, BenchJob, BenchResult } from "../result-types.ts";

/**
 * Measures the job's cases.
 * @throws {RangeError} for a name that is no case's
 */
export async function runBench(
  device: GPUDevice,
  job: BenchJob,
  emit: (event: BenchEvent) => void,
): Promise<BenchAnswer> {
  const results: BenchResult[] = [];
  for (const [index, name] of job.cases.entries()) {
    emit({ type: "progress", message: `${index + 1}/${job.cases.length} ${name}` });
    results.push(...(await findCase(name).measure(device, job)));
  }
  return { adapter: describeAdapter(device).name, results };
}
