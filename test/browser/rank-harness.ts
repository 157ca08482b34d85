/** A ring over links within one page: n rank attentions on one device, neighbours joined by links, checked by the oracle. */
import { allocate, read, release, upload } from "../../src/gpu/buffers.ts";
import { createLink } from "../../src/link/link.ts";
import type { Link } from "../../src/link/types.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import type { ReferenceAttention } from "../../src/reference/attention.ts";
import type { KvBlock } from "../../src/ring/kv-block.ts";
import { createRankAttention } from "../../src/ring/rank-attention.ts";
import type {
  RankAttention,
  RankAttentionOptions,
  RankStep,
  RingPlace,
  Rotation,
  WireDtype,
} from "../../src/ring/rank-types.ts";
import { positionsOf, tokenCount } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";
import { type AttentionInputs, expectClose, expected, makeInputs } from "../attention-harness.ts";
import type { AttentionCase } from "../cases.ts";

/** A causal sequence with grouped heads, small enough for many rings. */
export const sequence = (tokens: number, rest: Partial<AttentionCase> = {}): AttentionCase => ({
  ...{ name: "ranks", use: "test", batch: 1, seqLen: tokens, kvSeqLen: tokens, heads: 4, kvHeads: 2, headDim: 4 },
  ...{ dtype: "f32", isCausal: true },
  ...rest,
});

/** How a pass goes around. */
export interface PassOptions {
  rotation?: Rotation;
  wireDtype?: WireDtype;
  signal?: AbortSignal;
  signals?: readonly (AbortSignal | undefined)[];
  /** Changes what one rank believes. */
  placeOf?: (place: RingPlace) => RingPlace;
}

/** Joins rank to rank + 1, around. */
export type Join = (from: string, to: string) => [Link, Link];

/** Two ends of a link over wires in memory. */
export const joinByMemory: Join = (from, to) => {
  const [mine, theirs] = createMemoryWires();
  const ends: [Link, Link] = [
    createLink({ selfId: from, peerId: to, wires: [mine] }),
    createLink({ selfId: to, peerId: from, wires: [theirs] }),
  ];
  for (const end of ends) end.setEpoch(1);
  return ends;
};

/** n ranks, what each holds, and the inputs that all of it comes from. */
export class RankWorld {
  readonly held: TokenRange[][];
  /** `[T, H, D]`, as far as it has been computed. */
  readonly output: Float32Array<ArrayBuffer>;
  op = 0;

  private constructor(
    readonly device: GPUDevice,
    readonly c: AttentionCase,
    readonly inputs: AttentionInputs,
    readonly ranks: readonly RankAttention[],
    readonly blocks: readonly KvBlock[],
    readonly links: readonly { next?: Link; previous?: Link }[],
  ) {
    this.held = ranks.map(() => []);
    this.output = new Float32Array(c.seqLen * c.heads * c.headDim);
  }

  static async open(
    device: GPUDevice,
    c: AttentionCase,
    worldSize: number,
    options: Partial<RankAttentionOptions> = {},
    join: Join = joinByMemory,
  ): Promise<RankWorld> {
    const { heads, kvHeads, headDim, isCausal, window, softcap, scale } = c;
    const all = { heads, kvHeads, headDim, isCausal, window, softcap, scale, pageSize: 5, ...options };
    const ranks = await Promise.all(Array.from({ length: worldSize }, () => createRankAttention(device, all)));
    const links: { next?: Link; previous?: Link }[] = ranks.map(() => ({}));
    for (let rank = 0; rank < worldSize && worldSize > 1; rank++) {
      const to = (rank + 1) % worldSize;
      // A ring of two has one link, which is next and previous on both sides.
      if (worldSize === 2 && rank === 1) break;
      const [mine, theirs] = join(`rank ${rank}`, `rank ${to}`);
      links[rank]!.next = mine;
      links[to]!.previous = theirs;
      if (worldSize === 2) [links[0]!.previous, links[1]!.next] = [mine, theirs];
    }
    return new RankWorld(
      device,
      c,
      makeInputs(c),
      ranks,
      ranks.map((rank, index) => rank.createBlock(index)),
      links,
    );
  }

  get worldSize(): number {
    return this.ranks.length;
  }

  /** Rows of one input at these positions, packed. */
  rows(name: "query" | "key" | "value", ranges: readonly TokenRange[]): Float32Array<ArrayBuffer> {
    const width = (name === "query" ? this.c.heads : this.c.kvHeads) * this.c.headDim;
    const rows = [...positionsOf(ranges)].map((position) =>
      this.inputs[name].subarray(position * width, (position + 1) * width),
    );
    const packed = new Float32Array(rows.length * width);
    rows.forEach((row, index) => {
      packed.set(row, index * width);
    });
    return packed;
  }

  /** Appends K/V of these tokens to a rank's block. */
  async append(rank: number, ranges: readonly TokenRange[]): Promise<void> {
    const key = await upload(this.device, "key", this.rows("key", ranges));
    const value = await upload(this.device, "value", this.rows("value", ranges));
    await this.blocks[rank]!.append({ key, value, ranges });
    this.held[rank]!.push(...ranges);
    release(key);
    release(value);
  }

  /** One operation on all ranks: their tokens' K/V are kept, their queries attend, outputs go to {@link output}. */
  async step(tokens: readonly (readonly TokenRange[])[], options: PassOptions = {}): Promise<RankStep[][]> {
    for (const [rank, ranges] of tokens.entries()) await this.append(rank, ranges);
    return this.attend(tokens, options);
  }

  /** One pass of these queries over what is held. */
  async attend(queries: readonly (readonly TokenRange[])[], options: PassOptions = {}): Promise<RankStep[][]> {
    const op = this.op++;
    const settled = await Promise.allSettled(queries.map((_, rank) => this.attendOne(rank, op, queries, options)));
    for (const result of settled) if (result.status === "rejected") throw result.reason;
    return settled.map((result) => (result as PromiseFulfilledResult<RankStep[]>).value);
  }

  /** A rank's part in a pass. */
  async attendOne(
    rank: number,
    op: number,
    queries: readonly (readonly TokenRange[])[],
    options: PassOptions = {},
  ): Promise<RankStep[]> {
    const { c, device, worldSize } = this;
    const count = tokenCount(queries[rank]!);
    const query = await upload(device, "query", this.rows("query", queries[rank]!));
    const output = await allocate(device, { label: "output", byteLength: count * c.heads * c.headDim * 4 });
    const place: RingPlace = {
      ...{ rank, worldSize, ...this.links[rank]!, epoch: 1, op, layer: 0 },
      ...{ rotation: options.rotation ?? "keyValue", wireDtype: options.wireDtype ?? "f32" },
      ...{ queries, held: this.held.map((ranges) => [...ranges]) },
    };
    const steps: RankStep[] = [];
    try {
      const tensors = { query, output, block: this.blocks[rank]! };
      const signal = options.signals?.[rank] ?? options.signal;
      for await (const step of this.ranks[rank]!.attend(tensors, options.placeOf?.(place) ?? place, { signal }))
        steps.push(step);
      const width = c.heads * c.headDim;
      const got = new Float32Array(await read(device, { buffer: output, byteLength: count * width * 4 }));
      let row = 0;
      for (const position of positionsOf(queries[rank]!))
        this.output.set(got.subarray(row * width, ++row * width), position * width);
    } finally {
      release(query);
      release(output);
    }
    return steps;
  }

  /** The oracle's answer for the whole sequence over what is held now. */
  oracle(precision: "f64" | "f32" = "f64"): ReferenceAttention {
    const held = new Set(this.held.flatMap((ranges) => [...positionsOf(ranges)]));
    return expected(this.c, this.inputs, precision, {
      mask: (_b, _h, _t, s) => (held.has(s) ? 0 : Number.NEGATIVE_INFINITY),
    });
  }

  /** The outputs at these positions equal the oracle's over what is held now. */
  check(ranges: readonly TokenRange[]): void {
    const width = this.c.heads * this.c.headDim;
    const pick = (values: ArrayLike<number>) =>
      Float64Array.from(
        [...positionsOf(ranges)].flatMap((position) =>
          Array.from({ length: width }, (_, i) => values[position * width + i]!),
        ),
      );
    const [want, plain] = [this.oracle(), this.oracle("f32")];
    const lse = new Float64Array(0);
    expectClose(
      { output: pick(this.output), lse },
      { output: pick(want.output), lse },
      { output: pick(plain.output), lse },
      "f32",
    );
  }

  destroy(): void {
    for (const block of this.blocks) block.release();
    for (const rank of this.ranks) rank.destroy();
    for (const { next, previous } of this.links) {
      next?.close("the test is over");
      previous?.close("the test is over");
    }
  }
}
