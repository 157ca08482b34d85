/** What a ring of buffers costs over one block on the same device: at most 5% is the aim. */

import type { RingLayout } from "../../src/index.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { measureRingOverhead } from "../ring-overhead.ts";

/** A ring to compare with one block. */
export interface RingCase {
  name: string;
  seqLen: number;
  isCausal: boolean;
  layout: RingLayout;
  worldSize: number;
}

/** Both in turn, 8 heads x 64; `ratio` is ring over one block. */
export async function measureRing(device: GPUDevice, job: BenchJob, shape: RingCase): Promise<BenchResult[]> {
  const { name, ...rest } = shape;
  const result = await measureRingOverhead(device, { ...rest, heads: 8, headDim: 64, repeats: job.repeats });
  const { oneBlockMs, ringMs, ratio, spread } = result;
  return [
    {
      ...{ case: name, group: "ring", implementation: `ring of ${shape.worldSize}, ${shape.layout}` },
      ...{ seqLen: shape.seqLen, isCausal: shape.isCausal },
      figures: { oneBlockMs, ringMs, ratio, spread },
    },
  ];
}
