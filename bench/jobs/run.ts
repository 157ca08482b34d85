/** Runs bench cases on a device, one after another: the same code in the driven page and in Node. */
import { describeAdapter } from "../../src/index.ts";
import { type BenchCase, findCase } from "../cases.ts";
import type { BenchAnswer, BenchEvent, BenchJob, BenchResult } from "../result-types.ts";

/**
 * Measures the job's cases. One that fails is a result, too, and the next one is measured.
 * @throws {RangeError} for a name that is no case's
 */
export async function runBench(
  device: GPUDevice,
  job: BenchJob,
  emit: (event: BenchEvent) => void,
): Promise<BenchAnswer> {
  const cases = job.cases.map(findCase);
  const answer: BenchAnswer = { adapter: describeAdapter(device).name, results: [] };
  for (const [index, benchCase] of cases.entries()) {
    emit({ type: "progress", message: `${index + 1}/${cases.length} ${benchCase.name}` });
    answer.results.push(...(await measured(device, job, benchCase)));
    emit({ type: "results", answer });
  }
  return answer;
}

async function measured(device: GPUDevice, job: BenchJob, benchCase: BenchCase): Promise<BenchResult[]> {
  try {
    return await benchCase.measure(device, job);
  } catch (error) {
    const { name, message } = error as Error;
    const { name: caseName, group } = benchCase;
    return [{ case: caseName, group, implementation: "-", status: "failed", reason: `${name}: ${message}` }];
  }
}
