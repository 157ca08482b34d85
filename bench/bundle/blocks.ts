/** Measuring a case in blocks, Ringwise and torch in turn, and making one row of a contender's blocks. */
import { ATTENTION_CASES, type AttentionCase } from "../../test/cases.ts";
import { runBench } from "../jobs/run.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { summarize } from "../statistics.ts";
import { type Torch, type TorchCase, torchFailure, torchResult } from "./torch.ts";

/** Blocks per contender: enough that a drift of the machine meets both. */
export const BLOCK_COUNT = 2;

/**
 * One row of several blocks of the same case and implementation: all samples together, what follows from the median
 * scaled with it, the largest error, the largest memory.
 * @throws {RangeError} for no blocks
 */
export function mergeBlocks(blocks: readonly BenchResult[]): BenchResult {
  const first = blocks[0];
  if (!first) throw new RangeError("mergeBlocks: expected at least one block, got none");
  if (!first.timeMs || blocks.length === 1) return first;
  const timeMs = summarize(blocks.flatMap((block) => block.timeMs?.samples ?? []));
  const merged: BenchResult = { ...first, timeMs };
  const faster = first.timeMs.median / timeMs.median;
  if (first.gflops !== undefined) merged.gflops = first.gflops * faster;
  if (first.readGBps !== undefined) merged.readGBps = first.readGBps * faster;
  const all = (key: "fmaPeakGflops" | "readPeakGBps" | "maxError" | "extraBytes" | "peakBytes") =>
    blocks.map((block) => block[key]).filter((value) => value !== undefined);
  for (const key of ["fmaPeakGflops", "readPeakGBps"] as const) {
    const values = all(key);
    if (values.length > 0) merged[key] = values.reduce((sum, value) => sum + value, 0) / values.length;
  }
  if (merged.gflops !== undefined && merged.fmaPeakGflops) merged.peakShare = merged.gflops / merged.fmaPeakGflops;
  if (merged.readGBps !== undefined && merged.readPeakGBps)
    merged.bandwidthShare = merged.readGBps / merged.readPeakGBps;
  for (const key of ["maxError", "extraBytes", "peakBytes"] as const) {
    const values = all(key);
    // Math.max keeps NaN.
    if (values.length > 0) merged[key] = Math.max(...values);
  }
  const bad = blocks.find(({ status = "ok" }) => status !== "ok");
  return bad ? { ...merged, status: bad.status, reason: bad.reason } : merged;
}

const keyOf = ({ case: name, implementation, dtype = "f32" }: BenchResult) => `${name} ${implementation} ${dtype}`;

const reasonOf = (error: unknown) => (error instanceof Error ? error.message : String(error)).split("\n")[0]!;

/** Torch's part of a case: what it holds per dtype, and its samples so far. */
interface TorchSide {
  shape: AttentionCase;
  dtype: "f32" | "f16";
  torchCase: TorchCase;
  samples: number[];
}

/** The shape behind a row of attention; ring, model and matmul rows have none. */
const shapeOf = ({ group, case: name }: BenchResult): AttentionCase | undefined =>
  group === "attention" ? ATTENTION_CASES.find((shape) => shape.name === name) : undefined;

/**
 * Measures a case: a block of Ringwise, a block of torch for each of its rows of attention, and again; `job.repeats` in
 * all for each. A torch that cannot run a case gives a row that says so.
 * @throws what `runBench` throws
 */
export async function measureInBlocks(
  device: GPUDevice,
  job: BenchJob,
  torch: Torch | undefined,
): Promise<BenchResult[]> {
  const blocks = new Map<string, BenchResult[]>();
  const sides: TorchSide[] = [];
  const failures: BenchResult[] = [];
  // Only attention has a counterpart: the rest needs no turns.
  const isShared = torch !== undefined && ATTENTION_CASES.some(({ name }) => job.cases.includes(name));
  const count = isShared ? BLOCK_COUNT : 1;
  const repeats = Math.ceil(job.repeats / count);
  for (let block = 0; block < count; block++) {
    const { results } = await runBench(device, { ...job, repeats }, () => {});
    for (const result of results) blocks.set(keyOf(result), [...(blocks.get(keyOf(result)) ?? []), result]);
    if (!isShared) break;
    if (block === 0)
      for (const result of results) {
        const shape = shapeOf(result);
        const dtype = result.dtype ?? "f32";
        // Two implementations of ours meet one of torch's.
        if (!shape || [...sides, ...failures].some((side) => side.dtype === dtype)) continue;
        try {
          sides.push({ shape, dtype, torchCase: await torch.prepare(shape, dtype, job.warmups), samples: [] });
        } catch (error) {
          failures.push(torchFailure(shape, dtype, reasonOf(error)));
        }
      }
    for (const side of [...sides])
      try {
        side.samples.push(...(await side.torchCase.measure(repeats, job.minSampleMs)));
      } catch (error) {
        // What torch could do once and no more is no measurement; ours goes on.
        sides.splice(sides.indexOf(side), 1);
        failures.push(torchFailure(side.shape, side.dtype, reasonOf(error)));
      }
  }
  // A torch that is gone has nothing to let go of.
  if (sides.length > 0) await torch!.release().catch(() => {});
  return [
    ...[...blocks.values()].map(mergeBlocks),
    ...sides.map(({ shape, dtype, torchCase, samples }) => torchResult(shape, dtype, torchCase, samples)),
    ...failures,
  ];
}
