/** Passes of a ring whose compute is a stand-in: how much of its transfers a ring shows, and how it scales. */
import { planShards, type RingLayout, shardTokens, type TokenRange } from "../../src/index.ts";
import { isAttentionStep, pairsOfDispatch } from "./attention-cost.ts";
import { type BenchRing, openRing, type PassTimes } from "./ranks.ts";
import { createStandInDevice, type StandInDevice } from "./stand-in-device.ts";
import { withVirtualClock } from "./virtual-clock.ts";

/** Sizes of the attention that is stood in for: grouped heads, f32 on the wire. */
const SHAPE = { heads: 32, kvHeads: 4, headDim: 64 };
const PAGE_SIZE = 64;

/** A ring whose ranks compute at chosen speeds. */
interface SimulatedRing {
  ring: BenchRing;
  devices: readonly StandInDevice[];
}

/** @param pairsPerMs Speed of every rank. */
async function openSimulated(
  shards: readonly (readonly TokenRange[])[],
  isCausal: boolean,
  pairsPerMs: readonly number[],
): Promise<SimulatedRing> {
  const devices = pairsPerMs.map((speed) =>
    createStandInDevice((label, bound) => (isAttentionStep(label) ? pairsOfDispatch(isCausal, bound) / speed : 0)),
  );
  const ring = await openRing({
    ...SHAPE,
    ...{ isCausal, shards, pageSize: PAGE_SIZE, devices: devices.map(({ device }) => device) },
  });
  return { ring, devices };
}

/** What a pass took, and how long each rank's queue was busy in it. */
interface SimulatedPass extends PassTimes {
  busyMs: number[];
}

async function pass({ ring, devices }: SimulatedRing): Promise<SimulatedPass> {
  const before = devices.map(({ busyMs }) => busyMs);
  const times = await ring.pass();
  return { ...times, busyMs: devices.map(({ busyMs }, rank) => busyMs - before[rank]!) };
}

/** The fastest of several passes: what else the machine does only ever adds. */
async function fastestPass(simulated: SimulatedRing, repeats: number): Promise<SimulatedPass> {
  let fastest = await pass(simulated);
  for (let i = 1; i < repeats; i++) {
    const next = await pass(simulated);
    if (next.wallMs < fastest.wallMs) fastest = next;
  }
  return fastest;
}

const count = (ranges: readonly TokenRange[]) => ranges.reduce((sum, range) => sum + range.count, 0);

/** Pairs that rank `r` computes in step `i`, by counting them. */
function stepPairs(shards: readonly (readonly TokenRange[])[], isCausal: boolean): number[][] {
  const lists = shards.map((ranges) =>
    ranges.flatMap(({ start, stride, count: tokens }) => Array.from({ length: tokens }, (_, i) => start + i * stride)),
  );
  const n = shards.length;
  return lists.map((queries, rank) =>
    lists.map((_, step) => {
      const keys = lists[(rank - step + n) % n]!;
      if (!isCausal) return queries.length * keys.length;
      return queries.reduce((sum, query) => sum + keys.filter((key) => key <= query).length, 0);
    }),
  );
}

/**
 * The shortest possible pass: links busy from the beginning, block after block, every step begun the moment its block is whole.
 * A block that nobody further on may see does not travel.
 */
export function shortestPassMs(stepMs: readonly (readonly number[])[], hopMs: readonly number[]): number {
  const n = stepMs.length;
  let longest = 0;
  for (let rank = 0; rank < n; rank++) {
    let arrivedMs = 0;
    let doneMs = stepMs[rank]![0]!;
    for (let step = 1; step < n; step++) {
      const owner = (rank - step + n) % n;
      // From here on to the last one who computes on it.
      let travels = false;
      for (let on = step; on < n; on++) travels ||= stepMs[(owner + on) % n]![on]! > 0;
      if (travels) arrivedMs += hopMs[owner]!;
      if (stepMs[rank]![step]! > 0) doneMs = Math.max(doneMs, arrivedMs) + stepMs[rank]![step]!;
    }
    longest = Math.max(longest, doneMs);
  }
  return longest;
}

/** One row of the table of overlap. */
export interface OverlapRow {
  compute: "simulated" | "real kernels";
  /** "virtual": what the processor does takes no time (virtual-clock.ts). */
  clock: "virtual" | "real";
  worldSize: number;
  layout: RingLayout;
  isCausal: boolean;
  /** Transfer of one block / compute of one step of the busiest rank. */
  ratio: number;
  /** Of the pass: all ranks, all steps. */
  wallMs: number;
  /** Of the rank with most work. */
  computeMs: number;
  /** wallMs - computeMs: everything in which the busiest rank does not compute. */
  exposedMs: number;
  exposedShare: number;
  /** The part of it that no schedule can avoid: links are busy all the time. */
  unavoidableMs: number;
  /** What the ring's own events call waiting, of the busiest rank. */
  waitMs: number;
  /** Milliseconds on each link for one block, as set. */
  hopMs: number;
}

/** What {@link measureOverlap} measures. */
export interface OverlapCase {
  worldSize: number;
  layout: RingLayout;
  isCausal: boolean;
  ratio: number;
  /** Default 256. */
  tokensPerRank?: number;
  /** Compute per step of the busiest rank. Default 80. */
  stepMs?: number;
  /** Passes, of which the fastest counts; on the virtual clock one is enough. */
  repeats: number;
  clock: "virtual" | "real";
}

/** Runs on the clock that is asked for. */
const onClock = <T>(clock: "virtual" | "real", work: () => Promise<T>): Promise<T> =>
  clock === "virtual" ? withVirtualClock(work) : work();

/** One pass with simulated compute. */
export const measureOverlap = (options: OverlapCase): Promise<OverlapRow> =>
  onClock(options.clock, () => overlapOf(options));

async function overlapOf(options: OverlapCase): Promise<OverlapRow> {
  const { clock, worldSize, layout, isCausal, ratio, tokensPerRank = 256, stepMs = 80, repeats } = options;
  const shards = shardTokens({ count: worldSize * tokensPerRank, worldSize, layout });
  const pairs = stepPairs(shards, isCausal);
  const busiest = Math.max(...pairs.map((steps) => steps.reduce((a, b) => a + b, 0)));
  const pairsPerMs = busiest / worldSize / stepMs;
  const simulated = await openSimulated(
    shards,
    isCausal,
    shards.map(() => pairsPerMs),
  );
  try {
    const hopMs = ratio * stepMs;
    simulated.ring.connect({ bytesPerSecond: (simulated.ring.blockBytes[0]! / hopMs) * 1000 });
    await pass(simulated);
    const { wallMs, busyMs, steps } = await fastestPass(simulated, repeats);
    const computeMs = Math.max(...busyMs);
    const times = pairs.map((row) => row.map((number) => number / pairsPerMs));
    const rank = busyMs.indexOf(computeMs);
    return {
      ...{ compute: "simulated", clock, worldSize, layout, isCausal, ratio, wallMs, computeMs, hopMs },
      exposedMs: wallMs - computeMs,
      exposedShare: (wallMs - computeMs) / wallMs,
      unavoidableMs: Math.max(
        0,
        shortestPassMs(
          times,
          shards.map(() => hopMs),
        ) - computeMs,
      ),
      waitMs: steps[rank]!.reduce((sum, step) => sum + step.waitMs, 0),
    };
  } finally {
    simulated.ring.close();
  }
}

/** One row of the table of scaling. */
export interface ScalingRow {
  compute: "simulated";
  clock: "virtual";
  worldSize: number;
  /** Speed of every rank, the fastest 1. */
  speeds: number[];
  shards: "equal" | "by speed";
  tokens: number[];
  wallMs: number;
  /** Of the work divided by all speeds together. */
  idealMs: number;
  efficiency: number;
}

/** What {@link measureScaling} measures. */
export interface ScalingCase {
  speeds: readonly number[];
  shards: "equal" | "by speed";
  /** Tokens of the whole context. */
  tokens: number;
  /** Time of one rank of speed 1 for all of it, alone. */
  aloneMs: number;
  /** Bandwidth of the links: of equal shards, a block's hop takes so much of a step of speed 1. Default 0.5. */
  ratio?: number;
}

/** Attention of a whole causal prompt (one layer, zigzag) on ranks of these speeds, on the virtual clock. */
export const measureScaling = (options: ScalingCase): Promise<ScalingRow> => withVirtualClock(() => scalingOf(options));

async function scalingOf(options: ScalingCase): Promise<ScalingRow> {
  const { speeds, shards: sizing, tokens, aloneMs, ratio = 0.5 } = options;
  const worldSize = speeds.length;
  const shards = planShards({
    tokens: [{ start: 0, stride: 1, count: tokens }],
    ...{ worldSize, layout: "zigzag", ...(sizing === "by speed" && { weights: speeds }) },
  });
  const pairsPerMs = (tokens * (tokens + 1)) / 2 / aloneMs;
  const simulated = await openSimulated(
    shards,
    true,
    speeds.map((speed) => speed * pairsPerMs),
  );
  try {
    // The same links whatever the shards: such that equal ones hop in half of a step's time.
    const bytes = simulated.ring.blockBytes.reduce((a, b) => a + b, 0) / worldSize;
    const total = speeds.reduce((a, b) => a + b, 0);
    const hopMs = (ratio * aloneMs) / worldSize / worldSize;
    simulated.ring.connect({ bytesPerSecond: (bytes / hopMs) * 1000 });
    await pass(simulated);
    const { wallMs } = await pass(simulated);
    const idealMs = aloneMs / total;
    return {
      ...{
        compute: "simulated",
        clock: "virtual",
        worldSize,
        speeds: [...speeds],
        shards: sizing,
        tokens: shards.map(count),
      },
      ...{ wallMs, idealMs, efficiency: idealMs / wallMs },
    };
  } finally {
    simulated.ring.close();
  }
}
