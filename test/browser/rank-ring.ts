/**
 * A ring of rank runs in one page: what peers/ does over machines, done by one caller who sees all ranks. Every rank has a
 * run of its own on the same model and device; neighbours are joined by links over wires in memory, which stay as epochs
 * come and go.
 */
import type { Link } from "../../src/link/types.ts";
import { openRank, type RankRunOptions } from "../../src/model/rank-run.ts";
import type { RankRun } from "../../src/model/rank-types.ts";
import { createHostPicker } from "../../src/model/token-picker.ts";
import type { GenerateOptions, Model } from "../../src/model/types.ts";
import { mergePartials } from "../../src/ring/merge-partials.ts";
import type { PartialAttention, RankStep, Rotation, WireDtype } from "../../src/ring/rank-types.ts";
import { positionsOf, shardTokens, tokenCount } from "../../src/ring/shard.ts";
import type { RingLayout, TokenRange } from "../../src/ring/types.ts";
import { linkPair } from "./rank-links.ts";

/** How a ring of runs is made and driven. */
export interface RankRingOptions extends RankRunOptions {
  layout?: RingLayout;
  rotation?: Rotation;
  wireDtype?: WireDtype;
  /** Tokens per prefill op over all ranks. Default 64. */
  opTokens?: number;
  /** Tokens of a span to ranks; default `shardTokens` by the layout. */
  shard?: (start: number, count: number, worldSize: number) => TokenRange[][];
}

/** Positions `start` to `start + count - 1`. */
export const span = (start: number, count: number): TokenRange => ({ start, stride: 1, count });

/** n rank runs and the links between them. */
export class RankRing {
  readonly runs: RankRun[] = [];
  epoch = 0;
  op = 0;
  /** Of all ranks, since the ring was made. */
  readonly steps: RankStep[] = [];
  /** One name per run, for its whole life. */
  private readonly names: string[] = [];
  private made = 0;
  private asked: readonly Promise<unknown>[] = [];
  /** Both ends, by the names of the two peers in order; each end by the name of whose it is. */
  private readonly links = new Map<string, { peers: string[]; ends: Map<string, Link> }>();

  private constructor(
    readonly model: Model,
    private readonly options: RankRingOptions,
  ) {}

  /** Opens `worldSize` runs on the model. */
  static async open(model: Model, worldSize: number, options: RankRingOptions = {}): Promise<RankRing> {
    const ring = new RankRing(model, options);
    for (let rank = 0; rank < worldSize; rank++) await ring.join();
    return ring;
  }

  get worldSize(): number {
    return this.runs.length;
  }

  /** One more rank, which holds nothing. */
  async join(): Promise<void> {
    const { pageSize, chunkSize } = this.options;
    this.runs.push(await openRank(this.model, { pageSize, chunkSize }));
    this.names.push(`peer ${this.made++}`);
    this.newEpoch();
  }

  /** A rank goes, with all that it holds. */
  leave(rank: number): void {
    this.runs.splice(rank, 1)[0]!.release();
    const [gone] = this.names.splice(rank, 1);
    for (const [key, { peers, ends }] of this.links) {
      if (!peers.includes(gone!)) continue;
      for (const link of ends.values()) link.close("its peer has gone");
      this.links.delete(key);
    }
    this.newEpoch();
  }

  /** What is on its way is of no more use. */
  newEpoch(): void {
    this.epoch += 1;
    this.op = 0;
    for (const { ends } of this.links.values()) for (const link of ends.values()) link.setEpoch(this.epoch);
  }

  /** The end that belongs to rank `from`, of its link with rank `to`. */
  link(from: number, to: number): Link {
    const peers = [this.names[from]!, this.names[to]!].sort();
    const key = peers.join(" and ");
    let link = this.links.get(key);
    if (!link) {
      const ends = linkPair(peers[0]!, peers[1]!, this.epoch);
      link = { peers, ends: new Map(peers.map((name, index) => [name, ends[index]!])) };
      this.links.set(key, link);
    }
    return link.ends.get(this.names[from]!)!;
  }

  /** One op on all ranks, not committed. Rejects with the first failure once all have ended. */
  async forward(
    ids: readonly number[],
    tokens: readonly (readonly TokenRange[])[],
    options: {
      ropeLength?: number;
      signal?: AbortSignal;
      onSteps?: (rank: number, layer: number, steps: readonly RankStep[]) => void;
    } = {},
  ): Promise<void> {
    const { worldSize, epoch } = this;
    const { rotation = "keyValue", wireDtype = "f32" } = this.options;
    const op = this.op++;
    const held = this.runs.map((run) => run.held);
    const { ropeLength = ids.length, signal = new AbortController().signal } = options;
    const neighbours = (rank: number) =>
      worldSize === 1
        ? {}
        : {
            next: this.link(rank, (rank + 1) % worldSize),
            previous: this.link(rank, (rank + worldSize - 1) % worldSize),
          };
    const ended = await Promise.allSettled(
      this.runs.map((run, rank) =>
        run.forward(
          ids,
          { ...neighbours(rank), rank, worldSize, epoch, op, tokens, held, rotation, wireDtype, ropeLength },
          signal,
          (layer, steps) => {
            this.steps.push(...steps);
            options.onSteps?.(rank, layer, steps);
          },
        ),
      ),
    );
    for (const one of ended) if (one.status === "rejected") throw one.reason;
  }

  commit(): void {
    for (const run of this.runs) run.commit();
  }

  rollback(): void {
    for (const run of this.runs) run.rollback();
  }

  shard(start: number, count: number): TokenRange[][] {
    const { layout = "zigzag", shard } = this.options;
    const { worldSize } = this;
    return shard?.(start, count, worldSize) ?? shardTokens({ start, count, worldSize, layout });
  }

  /** Prefill of positions `start` to `end - 1`, op by op, committed. */
  async prefill(ids: readonly number[], start: number, end: number, ropeLength = ids.length): Promise<void> {
    const { opTokens = 64 } = this.options;
    for (let at = start; at < end; at += opTokens) {
      await this.forward(ids, this.shard(at, Math.min(opTokens, end - at)), { ropeLength });
      this.commit();
    }
  }

  /** Positions of `[0, total)` that nobody holds. */
  missing(total: number): number[] {
    const held = new Set(this.runs.flatMap((run) => [...positionsOf(run.held)]));
    return Array.from({ length: total }, (_, position) => position).filter((position) => !held.has(position));
  }

  /** Computes again what nobody holds, spread over the ranks, one token after the other. */
  async recover(ids: readonly number[], total: number, ropeLength: number): Promise<number> {
    const missing = this.missing(total);
    const { opTokens = 64 } = this.options;
    for (let at = 0; at < missing.length; at += opTokens) {
      const tokens: TokenRange[][] = this.runs.map(() => []);
      for (const [index, position] of missing.slice(at, at + opTokens).entries())
        tokens[index % this.worldSize]!.push(span(position, 1));
      await this.forward(ids, tokens, { ropeLength });
      this.commit();
    }
    return missing.length;
  }

  /** One token, committed. The rank with most room keeps it. */
  async decode(
    id: number,
    position: number,
    options: { lead?: number; signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    const { lead = 0, signal = new AbortController().signal } = options;
    const counts = this.runs.map((run) => tokenCount(run.held));
    const keeper = counts.indexOf(Math.min(...counts));
    const { heads, headDim } = this.runs[0]!;
    const logits = await this.runs[lead]!.lead(
      id,
      position,
      keeper === lead,
      {
        isAlone: this.worldSize === 1,
        ask: async (layer, query, key, value) => {
          const asked = this.runs.map(async (run, rank) =>
            rank === lead
              ? undefined
              : run.answer(layer, position, query, rank === keeper ? { key, value } : undefined, signal),
          );
          this.asked = asked;
          const answers = await Promise.all(asked);
          return answers
            .filter((answer) => answer !== undefined)
            .reduce<PartialAttention | undefined>(
              (merged, answer) => (merged ? mergePartials(merged, answer, heads, headDim) : answer),
              undefined,
            );
        },
      },
      signal,
    );
    this.commit();
    return logits;
  }

  /** Resolves when no rank answers any more: a lead does not wait for others' answers after a failure. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.asked);
  }

  /** A whole run. `before(count)` is called before the token that is number `count` of the answer is computed. */
  async generate(
    prompt: readonly number[],
    options: Pick<GenerateOptions, "maxNewTokens" | "temperature" | "topP" | "topK" | "seed"> = {},
    before?: (count: number, ids: readonly number[]) => Promise<void>,
  ): Promise<number[]> {
    const { maxNewTokens = 16, temperature = 0, topP = 1, topK = 0, seed = 0 } = options;
    const picker = createHostPicker({ temperature, topP, topK, seed });
    const ids = [...prompt];
    await this.prefill(ids, 0, prompt.length - 1, prompt.length);
    for (let count = 0; count < maxNewTokens; count++) {
      await before?.(count, ids);
      // Whoever leads, and whether it keeps the token or another does.
      const lead = (count + 1) % this.worldSize;
      ids.push(picker.pick((await this.decode(ids.at(-1)!, ids.length - 1, { lead })) as Float32Array));
    }
    return ids.slice(prompt.length);
  }

  release(): void {
    for (const { ends } of this.links.values()) for (const link of ends.values()) link.close("the test is over");
    for (const run of this.runs) run.release();
  }
}
