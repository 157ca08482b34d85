/** A ring of ranks in one process, over throttled links in memory: the library's own loop, links and credits. */
import {
  allocateAll,
  createLink,
  createMemoryWires,
  createRankAttention,
  type KvBlock,
  type Link,
  type RankAttention,
  type RankStep,
  type RingPlace,
  release,
  type TokenRange,
  throttle,
} from "../../src/index.ts";

/** Sizes of the attention. f32, one batch entry. */
export interface RingShape {
  heads: number;
  kvHeads: number;
  headDim: number;
  isCausal: boolean;
}

/** What {@link openRing} makes a ring of. */
export interface RingOptions extends RingShape {
  /** One for every rank; ranks may share one. */
  devices: readonly GPUDevice[];
  /** Tokens of every rank: its queries, and its block. */
  shards: readonly (readonly TokenRange[])[];
  pageSize: number;
  /** Fills key and value with something. Default: what the device has there. */
  fill?: (device: GPUDevice, buffer: GPUBuffer, seed: number) => void;
}

/** What one pass took. */
export interface PassTimes {
  /** From the start of all ranks to the end of the last. */
  wallMs: number;
  /** Of every rank, to its own end. */
  rankMs: number[];
  /** As the ring's own events tell it. */
  steps: RankStep[][];
}

interface Rank {
  attention: RankAttention;
  block: KvBlock;
  query: GPUBuffer;
  output: GPUBuffer;
  next: Link | undefined;
  previous: Link | undefined;
}

/** A ring that is ready to turn. */
export interface BenchRing {
  /** Bytes of every rank's block on the wire, without its table. */
  readonly blockBytes: readonly number[];
  /** Links of this bandwidth, both ways, from now on. */
  connect(link: { bytesPerSecond?: number; latencyMs?: number }): void;
  pass(): Promise<PassTimes>;
  close(): void;
}

const count = (ranges: readonly TokenRange[]) => ranges.reduce((sum, range) => sum + range.count, 0);

/** A link between two ranks: both of its ends, each slowed down on the way out. */
function linkPair(a: number, b: number, bytesPerSecond?: number, latencyMs?: number): [Link, Link] {
  const [left, right] = createMemoryWires().map((wire) =>
    throttle(wire, {
      ...(bytesPerSecond !== undefined && { bytesPerSecond }),
      ...(latencyMs !== undefined && { latencyMs }),
    }),
  ) as [ReturnType<typeof throttle>, ReturnType<typeof throttle>];
  return [
    createLink({ selfId: `rank ${a}`, peerId: `rank ${b}`, wires: [left] }),
    createLink({ selfId: `rank ${b}`, peerId: `rank ${a}`, wires: [right] }),
  ];
}

/** Makes the ranks and fills their blocks. */
export async function openRing(options: RingOptions): Promise<BenchRing> {
  const { devices, shards, heads, kvHeads, headDim, isCausal, pageSize, fill } = options;
  const worldSize = shards.length;
  const rowBytes = { query: heads * headDim * 4, kv: kvHeads * headDim * 4 };
  const ranks: Rank[] = [];
  for (const [rank, ranges] of shards.entries()) {
    const device = devices[rank]!;
    const tokens = count(ranges);
    const attention = await createRankAttention(device, { heads, kvHeads, headDim, isCausal, pageSize });
    const block = attention.createBlock(rank);
    const sizes = { query: rowBytes.query, output: rowBytes.query, key: rowBytes.kv, value: rowBytes.kv };
    const buffers = await allocateAll(
      device,
      Object.entries(sizes).map(([name, row]) => ({ label: `bench ${name} ${rank}`, byteLength: tokens * row })),
    );
    const [query, output, key, value] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
    for (const [i, buffer] of [query, key, value].entries()) fill?.(device, buffer, 3 * rank + i + 1);
    if (tokens > 0) await block.append({ key, value, ranges: [...ranges] });
    await device.queue.onSubmittedWorkDone();
    for (const buffer of [key, value]) release(buffer);
    ranks.push({ attention, block, query, output, next: undefined, previous: undefined });
  }
  let links: Link[] = [];
  let op = 0;
  const disconnect = () => {
    for (const link of links) link.close("the bench is over");
    links = [];
  };
  const run = async (rank: number, place: RingPlace, steps: RankStep[]) => {
    const { attention, query, output, block } = ranks[rank]!;
    for await (const step of attention.attend({ query, output, block }, place)) steps.push(step);
    return performance.now();
  };
  return {
    blockBytes: shards.map((ranges) => 2 * rowBytes.kv * count(ranges)),
    connect({ bytesPerSecond, latencyMs }) {
      disconnect();
      if (worldSize === 1) return;
      for (let rank = 0; rank < (worldSize === 2 ? 1 : worldSize); rank++) {
        const other = (rank + 1) % worldSize;
        const [here, there] = linkPair(rank, other, bytesPerSecond, latencyMs);
        links.push(here, there);
        ranks[rank]!.next = here;
        ranks[other]!.previous = there;
        if (worldSize > 2) continue;
        // In a ring of two one link leads both ways.
        ranks[rank]!.previous = here;
        ranks[other]!.next = there;
      }
    },
    async pass() {
      op++;
      const steps: RankStep[][] = ranks.map(() => []);
      const startMs = performance.now();
      const ends = await Promise.all(
        ranks.map(({ next, previous }, rank) =>
          run(
            rank,
            {
              ...{ rank, worldSize, epoch: 1, op, layer: 0, rotation: "keyValue", wireDtype: "f32" },
              ...{ queries: shards, held: shards },
              ...(next && { next }),
              ...(previous && { previous }),
            },
            steps[rank]!,
          ),
        ),
      );
      const rankMs = ends.map((end) => end - startMs);
      return { wallMs: Math.max(...rankMs), rankMs, steps };
    },
    close() {
      disconnect();
      for (const { attention, block, query, output } of ranks) {
        block.release();
        attention.destroy();
        for (const buffer of [query, output]) release(buffer);
      }
    },
  };
}
