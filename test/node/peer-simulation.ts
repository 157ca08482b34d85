import type { Wire } from "../../src/link/types.ts";
import type { Model } from "../../src/model/types.ts";
import { type PeerClock, sleep } from "../../src/peers/clock.ts";
import { createPeerWith } from "../../src/peers/create-peer.ts";
import type { EngineParts } from "../../src/peers/engine.ts";
import type { PeerOptions } from "../../src/peers/peer-options.ts";
import type { Peer, PeerEvent } from "../../src/peers/types.ts";
import type { TokenRange } from "../../src/ring/types.ts";
import { FakeRank, VOCABULARY } from "./fake-rank.ts";

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
