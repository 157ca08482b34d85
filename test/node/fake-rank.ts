/**
 * A stand-in for a rank's run of a model, whose next token depends on every K/V of every layer, each counted exactly once:
 * whatever is lost, doubled or computed wrongly shows in the answer.
 */
import { DeviceLostError, GpuMemoryError, OptionError } from "../../src/errors.ts";
import type { DecodeExchange, ForwardPlan, HeldTokens, RankRun } from "../../src/model/rank-types.ts";
import { sleep } from "../../src/peers/clock.ts";
import { differenceOf, unionOf } from "../../src/peers/holdings.ts";
import { mergePartials } from "../../src/ring/merge-partials.ts";
import type { PartialAttention } from "../../src/ring/rank-types.ts";
import { positionsOf, tokenCount } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";
import type { SimulatedPeer } from "./peer-simulation.ts";

type Floats = Float32Array<ArrayBuffer>;

export const VOCABULARY = 97;
const LAYERS = 2;

const hash = (...numbers: readonly number[]): number => {
  let state = 2166136261;
  for (const number of numbers) {
    state = Math.imul(state ^ (number & 0xffff), 16777619);
    state = Math.imul(state ^ (state >>> 15), 2246822519);
  }
  return (state ^ (state >>> 13)) >>> 0;
};
const valueAt = (layer: number, position: number, input: number): number => hash(layer, position, input) % 64;
const tokenOf = (sum: number, position: number): number => hash(99, sum, position) % VOCABULARY;

/** The answer as one machine would give it. @param values Filled with every K/V on the way, per layer, where given. */
export function goldenAnswer(prompt: readonly number[], count: number, values?: number[][]): number[] {
  const ids = [...prompt];
  const sums = Array.from({ length: LAYERS }, () => 0);
  for (let position = 0; ids.length < prompt.length + count; position++) {
    let input = ids[position]!;
    for (let layer = 0; layer < LAYERS; layer++) {
      const value = valueAt(layer, position, input);
      if (values) (values[layer] ??= [])[position] = value;
      sums[layer]! += value;
      input = sums[layer]!;
    }
    if (position === ids.length - 1) ids.push(tokenOf(input, position));
  }
  return ids.slice(prompt.length);
}

/** A rank's run of the stand-in model. */
export class FakeRank implements RankRun {
  readonly layerCount = LAYERS;
  readonly heads = 1;
  readonly kvHeads = 1;
  readonly headDim = 2;
  readonly vocabSize = VOCABULARY;
  readonly kvBytesPerToken = 100;
  private readonly layers = Array.from({ length: LAYERS }, () => new Map<number, number>());
  private committed: TokenRange[] = [];
  private current: string | undefined;
  private isTorn = false;
  isLost = false;

  constructor(private readonly peer: SimulatedPeer) {}

  get held(): readonly TokenRange[] {
    return this.committed;
  }

  get memory() {
    return { bytes: this.gpuBytes, peakBytes: this.gpuBytes };
  }

  get gpuBytes(): number {
    return this.layers[0]!.size * this.kvBytesPerToken;
  }

  async forward(ids: ArrayLike<number>, plan: ForwardPlan, signal: AbortSignal): Promise<void> {
    await this.operation("forward", signal, async () => {
      const { rank, worldSize, next, previous, epoch, op } = plan;
      const own = [...positionsOf(plan.tokens[rank]!)].sort((a, b) => a - b);
      if (
        tokenCount(differenceOf(plan.held[rank]!, this.committed)) +
        tokenCount(differenceOf(this.committed, plan.held[rank]!))
      )
        throw new OptionError("forward: expected a plan that knows what is held");
      let inputs = own.map((position) => ids[position]!);
      if (inputs.some((id) => id === undefined)) throw new OptionError("forward: expected ids for all positions");
      for (let layer = 0; layer < LAYERS; layer++) {
        await this.compute(own.length * 0.5 + 0.2, signal);
        own.forEach((position, i) => void this.keep(layer, position, valueAt(layer, position, inputs[i]!)));
        if (layer === LAYERS - 1) break;
        const seen = own.map(() => ({ sum: 0, count: 0 }));
        let block: Floats = Float32Array.from([...this.layers[layer]!].flat());
        for (let step = 0; step < worldSize; step++) {
          const kvRank = (rank - step + worldSize) % worldSize;
          let coming: Promise<Floats> | undefined;
          if (step + 1 < worldSize) {
            const from = (kvRank - 1 + worldSize) % worldSize;
            const count = tokenCount(plan.held[from]!) + tokenCount(plan.tokens[from]!);
            const key = { epoch, op, layer, kind: "block" as const };
            const received = previous!.receive({ ...key, rank: from }, count * 8, signal);
            const sent = next!.send({ ...key, rank: kvRank }, [new Uint8Array(block.buffer)], block.byteLength, signal);
            sent.catch(() => {});
            coming = received.then(({ bytes }) => new Float32Array(bytes.slice().buffer));
            coming.catch(() => {});
          }
          await this.compute(0.3, signal);
          for (let i = 0; i < block.length; i += 2)
            own.forEach((position, row) => {
              if (block[i]! > position) return;
              seen[row]!.sum += block[i + 1]!;
              seen[row]!.count++;
            });
          if (coming) block = await coming;
        }
        own.forEach((position, row) => {
          if (seen[row]!.count !== position + 1)
            this.peer.simulation.broken.push(
              `${this.peer.id}: position ${position} of op ${op} met ${seen[row]!.count} keys in layer ${layer}`,
            );
        });
        inputs = seen.map(({ sum }) => sum);
      }
    });
  }

  async lead(
    id: number,
    position: number,
    keeps: boolean,
    exchange: DecodeExchange,
    signal: AbortSignal,
  ): Promise<Floats> {
    return this.operation("lead", signal, async () => {
      let input = id;
      for (let layer = 0; layer < LAYERS; layer++) {
        await this.compute(0.5, signal);
        const value = valueAt(layer, position, input);
        const others = exchange.ask(
          layer,
          Float32Array.of(position, 0),
          Float32Array.of(position, 0),
          Float32Array.of(value, 0),
        );
        others.catch(() => {});
        if (keeps) this.keep(layer, position, value);
        const own = this.partial(layer, position);
        const answer = await others;
        const { output, lse } = answer ? mergePartials(own, answer, 1, 2) : own;
        const count = Math.round(Math.exp(lse[0]!));
        if (count !== position + 1)
          this.peer.simulation.broken.push(
            `${this.peer.id}: decode at ${position} met ${count} keys in layer ${layer}: ${this.peer.simulation.whoHolds(layer)}`,
          );
        input = Math.round(output[0]! * count);
      }
      const logits = new Float32Array(VOCABULARY);
      logits[tokenOf(input, position)] = 1;
      return logits;
    });
  }

  async answer(
    layer: number,
    position: number,
    query: Floats,
    keyValue: { key: Floats; value: Floats } | undefined,
    signal: AbortSignal,
  ): Promise<PartialAttention> {
    if (query[0] !== position) this.peer.simulation.broken.push(`${this.peer.id}: a query of another position`);
    return this.operation("answer", signal, async () => {
      await this.compute(0.3, signal);
      if (keyValue) this.keep(layer, position, keyValue.value[0]!);
      return this.partial(layer, position);
    });
  }

  commit(): void {
    this.expectIdle();
    if (this.isTorn) throw new OptionError("commit: expected a rollback after a failed operation");
    this.committed = this.positions(LAYERS - 1);
  }

  rollback(): void {
    this.expectIdle();
    this.isTorn = false;
    this.keepOnly(this.committed);
  }

  async drop(ranges?: readonly TokenRange[]): Promise<void> {
    this.expectIdle();
    this.committed = ranges ? differenceOf(this.committed, ranges) : [];
    this.keepOnly(this.committed);
  }

  /** Rows of K/V bytes, a token's value first in each of the values' rows. */
  async exportTokens(ranges: readonly TokenRange[], signal: AbortSignal): Promise<HeldTokens> {
    return this.operation("exportTokens", signal, async () => {
      await this.compute(0.5, signal);
      const positions = [...positionsOf(ranges)];
      if (tokenCount(differenceOf(ranges, this.committed)) > 0)
        throw new OptionError("exportTokens: expected tokens that are held");
      const rowBytes = this.kvBytesPerToken / LAYERS / 2;
      const layers = this.layers.map((layer) => {
        const bytes = new Uint8Array(positions.length * rowBytes * 2);
        for (const [row, position] of positions.entries())
          bytes[(positions.length + row) * rowBytes] = layer.get(position)!;
        return bytes;
      });
      return { ranges, layers };
    });
  }

  async importTokens({ ranges, layers }: HeldTokens, signal: AbortSignal): Promise<void> {
    await this.operation("importTokens", signal, async () => {
      await this.compute(0.5, signal);
      const positions = [...positionsOf(ranges)];
      const rowBytes = this.kvBytesPerToken / LAYERS / 2;
      for (const [layer, bytes] of layers.entries())
        for (const [row, position] of positions.entries())
          this.keep(layer, position, bytes[(positions.length + row) * rowBytes]!);
    });
    this.committed = unionOf(this.committed, ranges);
    this.peer.simulation.importedTokens += tokenCount(ranges);
  }

  release(): void {
    this.isLost = true;
  }

  positions(layer: number): TokenRange[] {
    return unionOf([...this.layers[layer]!.keys()].map((start) => ({ start, stride: 1, count: 1 })));
  }

  private keep(layer: number, position: number, value: number): void {
    const { simulation, id } = this.peer;
    const golden = simulation.values[layer]?.[position];
    if (golden !== undefined && golden !== value)
      simulation.broken.push(
        `${id}: layer ${layer} at ${position} is ${value}, expected ${golden}, in ${this.current}`,
      );
    this.layers[layer]!.set(position, value);
  }

  private keepOnly(ranges: readonly TokenRange[]): void {
    const positions = new Set(positionsOf(ranges));
    for (const layer of this.layers)
      for (const position of layer.keys()) if (!positions.has(position)) layer.delete(position);
  }

  private partial(layer: number, position: number): PartialAttention {
    const values = [...this.layers[layer]!].filter(([at]) => at <= position).map(([, value]) => value);
    const count = values.length;
    const mean = count > 0 ? values.reduce((sum, value) => sum + value, 0) / count : 0;
    return {
      output: Float32Array.of(mean, 0),
      lse: Float32Array.of(count > 0 ? Math.log(count) : Number.NEGATIVE_INFINITY),
    };
  }

  private async compute(milliseconds: number, signal: AbortSignal): Promise<void> {
    await sleep(this.peer.clock, milliseconds * this.peer.slowness, signal);
    if (this.isLost) throw new DeviceLostError("the GPU device was lost");
    if (this.peer.gpuTokens !== undefined && this.layers[0]!.size > this.peer.gpuTokens)
      throw new GpuMemoryError("no more memory", 1);
  }

  private expectIdle(): void {
    if (this.current !== undefined) throw new OptionError(`expected no operation in progress, got ${this.current}`);
    if (this.isLost) throw new DeviceLostError("the GPU device was lost");
  }

  private async operation<T>(name: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    this.expectIdle();
    if (this.isTorn) throw new OptionError(`${name}: expected a rollback after a failed operation`);
    signal.throwIfAborted();
    this.current = name;
    try {
      return await work();
    } catch (error) {
      this.isTorn = true;
      throw signal.aborted ? signal.reason : error;
    } finally {
      this.current = undefined;
    }
  }
}
