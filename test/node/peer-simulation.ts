/**
 * A ring of real peers on a virtual clock: real links over simulated wires, and a stand-in for the model whose next token
 * depends on every K/V of every layer, each counted exactly once. Hours pass in a moment, and faults happen when they are told to.
 */
import { DeviceLostError, GpuMemoryError, OptionError } from "../../src/errors.ts";
import type { Wire } from "../../src/link/types.ts";
import type { DecodeExchange, ForwardPlan, HeldTokens, RankRun } from "../../src/model/rank-types.ts";
import type { Model } from "../../src/model/types.ts";
import { type PeerClock, sleep } from "../../src/peers/clock.ts";
import { createPeerWith } from "../../src/peers/create-peer.ts";
import type { EngineParts } from "../../src/peers/engine.ts";
import { differenceOf, unionOf } from "../../src/peers/holdings.ts";
import type { PeerOptions } from "../../src/peers/peer-options.ts";
import type { Peer, PeerEvent } from "../../src/peers/types.ts";
import { mergePartials } from "../../src/ring/merge-partials.ts";
import type { PartialAttention } from "../../src/ring/rank-types.ts";
import { positionsOf, tokenCount } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";

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
class FakeRank implements RankRun {
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

/** An event of the virtual clock. */
interface Due {
  atMs: number;
  order: number;
  /** Whose it is: nothing happens to a peer that is dead, and nothing to a frozen one before it thaws. */
  owner: SimulatedPeer | undefined;
  act: () => void;
}

/** A wire whose messages take a while. */
class SimulatedWire implements Wire {
  readonly kind: Wire["kind"] = "memory";
  readonly maxMessageBytes = 256 * 1024;
  readonly bufferedBytes = 0;
  onMessage: Wire["onMessage"];
  onClose: Wire["onClose"];
  other!: SimulatedWire;
  isClosed = false;
  private lastAtMs = 0;

  constructor(
    private readonly owner: SimulatedPeer,
    private readonly to: SimulatedPeer,
  ) {}

  send(message: Uint8Array<ArrayBuffer>): void {
    const { simulation } = this.owner;
    if (this.isClosed || this.owner.isDead) return;
    if (simulation.isCut(this.owner, this.to)) return;
    const copy = message.slice();
    this.lastAtMs = Math.max(this.lastAtMs, simulation.nowMs + simulation.latencyMs());
    simulation.at(this.lastAtMs, this.to, () => {
      if (!this.other.isClosed) this.other.onMessage?.(copy);
    });
  }

  async drained(): Promise<void> {}

  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    const { simulation } = this.owner;
    // A dead process closes nothing; its ports are closed for it.
    this.lastAtMs = Math.max(this.lastAtMs, simulation.nowMs + simulation.latencyMs());
    simulation.at(this.lastAtMs, this.to, () => {
      if (this.other.isClosed) return;
      this.other.isClosed = true;
      this.other.onClose?.("the other end is closed");
    });
  }
}

/** One peer of the simulation. */
export class SimulatedPeer {
  readonly id: string;
  readonly events: { atMs: number; event: PeerEvent }[] = [];
  readonly clock: PeerClock;
  peer!: Peer;
  isDead = false;
  frozenUntilMs = 0;
  slowness = 1;
  /** Tokens after which its GPU has no more memory, whatever it said. */
  gpuTokens: number | undefined;
  /** How long it takes to load the model. */
  loadMs = 50;
  wires: SimulatedWire[] = [];
  private ranks: FakeRank[] = [];
  private loseDevice: ((info: GPUDeviceLostInfo) => void) | undefined;

  constructor(
    readonly simulation: Simulation,
    name: string,
    readonly memoryTokens: number,
    isLeader: boolean,
  ) {
    this.id = name;
    this.clock = {
      now: () => simulation.nowMs,
      after: (milliseconds, then) => simulation.at(simulation.nowMs + Math.max(0, milliseconds), this, then),
      every: (milliseconds, then) => {
        let isOver = false;
        const next = () =>
          simulation.at(simulation.nowMs + milliseconds, this, () => {
            if (isOver) return;
            next();
            then();
          });
        next();
        return () => {
          isOver = true;
        };
      },
    };
    const options: PeerOptions = {
      id: name,
      name,
      isLeader,
      admit: "all",
      memoryBytes: memoryTokens * 100,
      requestDevice: async () => this.engine().requestDevice(),
      onEvent: (event) => this.events.push({ atMs: simulation.nowMs, event }),
      onReconnect: (other) => simulation.reconnect(this, other),
    };
    this.peer = createPeerWith(options, { clock: this.clock, engine: this.engine() });
  }

  /** Token ids of the pieces it gave out. */
  get tokenIds(): number[] {
    return this.events.flatMap(({ event }) => (event.type === "piece" ? [event.piece.tokenId] : []));
  }

  get ends(): (PeerEvent & { type: "end" })[] {
    return this.events.flatMap(({ event }) => (event.type === "end" ? [event] : []));
  }

  /** Positions whose K/V are on its GPU. */
  holds(layer: number): TokenRange[] {
    return this.ranks.at(-1)?.positions(layer) ?? [];
  }

  /** The GPU goes; what was on it is gone, too. */
  destroyDevice(): void {
    for (const rank of this.ranks) rank.isLost = true;
    this.ranks = [];
    this.loseDevice?.({ reason: "unknown", message: "simulated" } as GPUDeviceLostInfo);
  }

  private engine(): EngineParts {
    return {
      requestDevice: async () =>
        ({
          lost: new Promise<GPUDeviceLostInfo>((resolve) => {
            this.loseDevice = resolve;
          }),
        }) as GPUDevice,
      loadModel: async (_wanted, { signal }) => {
        await sleep(this.clock, this.loadMs, signal);
        const model = { name: "stand-in", destroy() {} } as Model;
        return { model, fingerprint: "f00d", description: { name: "stand-in", fingerprint: "f00d" } };
      },
      openRank: async () => {
        const rank = new FakeRank(this);
        this.ranks.push(rank);
        return rank;
      },
      promptsOf: () => ({ tokenizer: undefined, vocabSize: VOCABULARY, bosTokenId: undefined, eosTokenIds: [] }),
      adapterName: () => "simulated",
    };
  }
}

/** See the module's comment. */
export class Simulation {
  nowMs = 1000;
  readonly peers: SimulatedPeer[] = [];
  /** What must never be: a key met twice, or not at all. */
  readonly broken: string[] = [];
  /** Tokens that came onto ranks from elsewhere. */
  importedTokens = 0;
  /** What K/V have to be, per layer and position; see {@link goldenAnswer}. */
  readonly values: number[][] = [];
  private readonly due: Due[] = [];
  private order = 0;
  private readonly cuts = new Map<string, number>();
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** Seeded: 0 to 1. */
  random(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  }

  latencyMs(): number {
    return 0.2 + this.random();
  }

  /** Something will happen; @returns what takes it back. */
  at(atMs: number, owner: SimulatedPeer | undefined, act: () => void): () => void {
    const entry: Due = { atMs, order: this.order++, owner, act };
    // Ordered by time; binary search keeps it quick.
    let [low, high] = [0, this.due.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.due[middle]!.atMs > atMs) low = middle + 1;
      else high = middle;
    }
    this.due.splice(low, 0, entry);
    return () => {
      entry.act = () => {};
    };
  }

  add(name: string, options: { memoryTokens?: number; isLeader?: boolean } = {}): SimulatedPeer {
    const peer = new SimulatedPeer(this, name, options.memoryTokens ?? 10_000, options.isLeader ?? false);
    for (const other of this.peers) if (!other.isDead) this.wire(peer, other);
    this.peers.push(peer);
    return peer;
  }

  /** A ring of so many peers, ready. */
  async ring(count: number, options: { memoryTokens?: number } = {}): Promise<SimulatedPeer[]> {
    const peers = Array.from({ length: count }, (_, index) =>
      this.add(`p${index}`, { isLeader: index === 0, ...options }),
    );
    await this.until(() =>
      peers.every(({ peer }) => peer.peers.filter(({ state }) => state === "working").length === count),
    );
    return peers;
  }

  wire(a: SimulatedPeer, b: SimulatedPeer): void {
    const [one, two] = [new SimulatedWire(a, b), new SimulatedWire(b, a)];
    one.other = two;
    two.other = one;
    a.wires.push(one);
    b.wires.push(two);
    this.at(this.nowMs, a, () => a.peer.connect(b.id, [one]));
    this.at(this.nowMs, b, () => b.peer.connect(a.id, [two]));
  }

  /** The room makes a connection anew, where both ends live and the network lets it. */
  reconnect(from: SimulatedPeer, to: string): void {
    const other = this.peers.find(({ id }) => id === to);
    this.at(this.nowMs + 50, undefined, () => {
      if (
        !other ||
        other.isDead ||
        from.isDead ||
        this.isFrozen(other) ||
        this.isFrozen(from) ||
        this.isCut(from, other)
      )
        return;
      this.wire(from, other);
    });
  }

  /** For messages: what everyone has of a layer. */
  whoHolds(layer: number): string {
    return this.peers.map((peer) => `${peer.id} ${JSON.stringify(peer.holds(layer))}`).join("; ");
  }

  isFrozen(peer: SimulatedPeer): boolean {
    return peer.frozenUntilMs > this.nowMs;
  }

  isCut(a: SimulatedPeer, b: SimulatedPeer): boolean {
    return (this.cuts.get([a.id, b.id].sort().join()) ?? 0) > this.nowMs;
  }

  cut(a: SimulatedPeer, b: SimulatedPeer, milliseconds: number): void {
    this.cuts.set([a.id, b.id].sort().join(), this.nowMs + milliseconds);
  }

  freeze(peer: SimulatedPeer, milliseconds: number): void {
    peer.frozenUntilMs = Math.max(peer.frozenUntilMs, this.nowMs + milliseconds);
  }

  /** Dies without a word; with `closes`, the platform closes its ports. */
  kill(peer: SimulatedPeer, closes: boolean): void {
    peer.isDead = true;
    if (closes) for (const wire of peer.wires) wire.close();
  }

  /** Lets time pass until it holds. @throws where it does not within so many virtual milliseconds */
  async until(condition: () => boolean, withinMs = 120_000): Promise<void> {
    const endMs = this.nowMs + withinMs;
    await settled();
    while (!condition()) {
      const next = this.due.pop();
      if (!next || next.atMs > endMs) {
        if (next) this.due.push(next);
        throw new Error(`simulation: nothing came of it within ${withinMs} ms\n${this.describe()}`);
      }
      this.nowMs = Math.max(this.nowMs, next.atMs);
      const { owner } = next;
      if (owner?.isDead) continue;
      if (owner && owner.frozenUntilMs > this.nowMs) {
        this.at(owner.frozenUntilMs, owner, () => next.act());
        continue;
      }
      next.act();
      await settled();
    }
  }

  async pass(milliseconds: number): Promise<void> {
    const endMs = this.nowMs + milliseconds;
    let isOver = false;
    this.at(endMs, undefined, () => {
      isOver = true;
    });
    await this.until(() => isOver, milliseconds + 1);
  }

  describe(): string {
    return this.peers
      .map((one) => {
        const states = one.peer.peers.map(
          ({ id, state, rank, heldTokens }) => `${id}:${state}:${rank ?? "-"}:${heldTokens}`,
        );
        const last = one.events
          .filter(({ event }) => !["peers", "steps", "piece", "prefill"].includes(event.type))
          .slice(-12)
          .map(({ atMs, event }) => `    ${atMs.toFixed(0)} ${JSON.stringify(event).slice(0, 220)}`);
        return `  ${one.id}${one.isDead ? " (dead)" : ""} leads=${one.peer.isLeader} ${states.join(" ")} tokens=${one.tokenIds.length}\n${last.join("\n")}`;
      })
      .join("\n");
  }
}

/** Everything that follows from what happened has happened. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
