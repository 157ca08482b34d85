/**
 * A ring of two with real kernels, its links throttled. Both ranks share one adapter (and here one device), so a pass over links
 * without bounds tells what compute takes, contention and all; what throttled links add to that is exposed communication.
 */
import { type RingLayout, shardTokens, write } from "../../src/index.ts";
import { normals } from "../random.ts";
import { openRing } from "./ranks.ts";
import type { OverlapRow } from "./simulate.ts";

/** What {@link measureRealOverlap} measures. */
export interface RealOverlapCase {
  layout: RingLayout;
  isCausal: boolean;
  ratios: readonly number[];
  tokensPerRank: number;
  /** Passes of each kind, in turn. */
  repeats: number;
}

const SHAPE = { heads: 8, kvHeads: 2, headDim: 64 };
const WORLD_SIZE = 2;

/** Two ranks on one device. @returns a row for every ratio */
export async function measureRealOverlap(device: GPUDevice, options: RealOverlapCase): Promise<OverlapRow[]> {
  const { layout, isCausal, ratios, tokensPerRank, repeats } = options;
  const shards = shardTokens({ count: WORLD_SIZE * tokensPerRank, worldSize: WORLD_SIZE, layout });
  const ring = await openRing({
    ...SHAPE,
    ...{ isCausal, shards, pageSize: 128, devices: [device, device] },
    fill: (_, buffer, seed) => write(device, buffer, 0, normals(buffer.size / 4, seed)),
  });
  try {
    const unbounded = async () => {
      ring.connect({});
      return (await ring.pass()).wallMs;
    };
    await unbounded();
    await unbounded();
    const rows: OverlapRow[] = [];
    for (const ratio of ratios) {
      const bare: number[] = [];
      for (let i = 0; i < repeats; i++) bare.push(await unbounded());
      const hopMs = (ratio * Math.min(...bare)) / WORLD_SIZE;
      const throttled: { wallMs: number; waitMs: number }[] = [];
      for (let i = 0; i < repeats; i++) {
        bare.push(await unbounded());
        ring.connect({ bytesPerSecond: (ring.blockBytes[0]! / hopMs) * 1000 });
        const { wallMs, steps } = await ring.pass();
        const waitMs = Math.max(...steps.map((row) => row.reduce((sum, step) => sum + step.waitMs, 0)));
        throttled.push({ wallMs, waitMs });
      }
      // The fastest of each: what else the machine does only ever adds.
      const computeMs = Math.min(...bare);
      const wallMs = Math.min(...throttled.map((pass) => pass.wallMs));
      rows.push({
        ...{ compute: "real kernels", clock: "real", worldSize: WORLD_SIZE, layout, isCausal, ratio },
        ...{ wallMs, computeMs, hopMs, exposedMs: wallMs - computeMs, exposedShare: (wallMs - computeMs) / wallMs },
        unavoidableMs: Math.max(0, hopMs - computeMs / WORLD_SIZE),
        waitMs: Math.min(...throttled.map((pass) => pass.waitMs)),
      });
    }
    return rows;
  } finally {
    ring.close();
  }
}
