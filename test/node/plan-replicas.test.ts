/** Copies of a neighbour's K/V: kept by position, asked for as they come to be, taken over when the neighbour is gone. */
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { PeerError } from "../../src/errors.ts";
import { createLink } from "../../src/link/link.ts";
import type { ControlMessage, Link } from "../../src/link/types.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import type { HeldTokens, RankRun } from "../../src/model/rank-types.ts";
import type { Epoch } from "../../src/peers/epoch.ts";
import { differenceOf, isSameSet, unionOf } from "../../src/peers/holdings.ts";
import { ReplicaStore } from "../../src/peers/replica-store.ts";
import { Replicas } from "../../src/peers/replicas.ts";
import { positionsOf, shardTokens, tokenCount } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";

const SHAPE = { layerCount: 3, kvBytesPerToken: 48 };
const ROW = SHAPE.kvBytesPerToken / SHAPE.layerCount / 2;

/** K/V that tell where they belong. */
function tokensAt(ranges: readonly TokenRange[]): HeldTokens {
  const positions = [...positionsOf(ranges)];
  const layers = Array.from({ length: SHAPE.layerCount }, (_, layer) => {
    const bytes = new Uint8Array(positions.length * ROW * 2);
    for (const half of [0, 1])
      for (const [row, position] of positions.entries())
        bytes.fill(
          (position * 7 + layer * 3 + half) & 255,
          (half * positions.length + row) * ROW,
          (half * positions.length + row + 1) * ROW,
        );
    return bytes;
  });
  return { ranges, layers };
}

const at = (positions: readonly number[]) => positions.map((start) => ({ start, stride: 1, count: 1 }));

describe("a store of replicas", () => {
  it("gives back what was put there, row by row, whatever was put, replaced and forgotten", () => {
    const batch = fc.uniqueArray(fc.integer({ min: 0, max: 40 }), { maxLength: 12 });
    const steps = fc.array(fc.tuple(fc.constantFrom("put", "retain"), batch), { maxLength: 12 });
    fc.assert(
      fc.property(steps, (list) => {
        const store = new ReplicaStore(SHAPE);
        let model = new Set<number>();
        for (const [what, positions] of list) {
          if (what === "put") {
            store.put(tokensAt(at(positions)));
            for (const position of positions) model.add(position);
          } else {
            store.retain(at(positions));
            model = new Set(positions.filter((position) => model.has(position)));
          }
          expect(store.tokens).toBe(model.size);
          expect(new Set(positionsOf(store.ranges))).toEqual(model);
          // Never more than twice of what is kept.
          expect(store.byteLength).toBeLessThanOrEqual(2 * model.size * SHAPE.kvBytesPerToken);
          const reversed = at([...model].reverse());
          expect(store.take(reversed).layers).toEqual(tokensAt(reversed).layers);
        }
        store.clear();
        expect(store.byteLength).toBe(0);
      }),
    );
  });

  it("refuses bytes that do not fit, and positions that are not here", () => {
    const store = new ReplicaStore(SHAPE);
    const { layers } = tokensAt(at([1, 2]));
    expect(() => store.put({ ranges: at([1]), layers })).toThrow(PeerError);
    expect(() => store.put({ ranges: at([1, 2]), layers: layers.slice(1) })).toThrow(PeerError);
    expect(() => store.take(at([9]))).toThrow(PeerError);
  });
});

/** A rank that only holds. */
class HoldingRank {
  readonly layerCount = SHAPE.layerCount;
  readonly kvBytesPerToken = SHAPE.kvBytesPerToken;
  held: TokenRange[] = [];
  imported = 0;

  async exportTokens(ranges: readonly TokenRange[]): Promise<HeldTokens> {
    return tokensAt(ranges);
  }

  async importTokens({ ranges, layers }: HeldTokens): Promise<void> {
    expect(layers).toEqual(tokensAt(ranges).layers);
    this.imported += tokenCount(ranges);
    this.held = unionOf(this.held, ranges);
  }
}

const members = (...ids: string[]) => ({ ranks: ids.map((id, seat) => ({ id, seat })) });

/** Ranks with links between each two. */
class Ring {
  readonly ranks: HoldingRank[];
  readonly replicas: Replicas[];
  readonly links: Map<string, Link>[];
  readonly broken: string[] = [];

  constructor(readonly ids: readonly string[]) {
    this.ranks = ids.map(() => new HoldingRank());
    this.links = ids.map(() => new Map());
    this.replicas = ids.map((id, i) => {
      let tail: Promise<unknown> = Promise.resolve();
      return new Replicas({
        rank: () => this.ranks[i] as unknown as RankRun,
        work: (work) => {
          const done = tail.then(() => work(this.ranks[i] as unknown as RankRun, new AbortController().signal));
          tail = done.catch(() => {});
          return done;
        },
        linkOf: (peerId) => this.links[i]!.get(peerId),
        onBroken: (peerId, reason) => void this.broken.push(`${id}: ${peerId} ${reason}`),
      });
    });
    for (let a = 0; a < ids.length; a++)
      for (let b = a + 1; b < ids.length; b++) {
        const wires = createMemoryWires();
        for (const [self, other, wire] of [
          [a, b, wires[0]],
          [b, a, wires[1]],
        ] as const) {
          const link = createLink({ selfId: ids[self]!, peerId: ids[other]!, wires: [wire] });
          link.onControl = (message) => this.replicas[self]!.handle(link, message);
          this.links[self]!.set(ids[other]!, link);
        }
      }
  }

  /** Everyone enters an epoch of these members, who hold what they hold. */
  open(number: number, members: readonly string[]): Epoch[] {
    const indices = members.map((id) => this.ids.indexOf(id));
    const held = indices.map((i) => this.ranks[i]!.held);
    return indices.map((i, rank) => {
      for (const link of this.links[i]!.values()) if (!link.isClosed) link.setEpoch(number);
      const ranks = members.map((id, seat) => ({ id, seat }));
      const epoch = { number, leaderId: members[0]!, ranks, rank, reason: "", held: held.map((list) => [...list]) };
      this.replicas[i]!.opened(epoch);
      return epoch;
    });
  }

  leave(id: string): void {
    for (const link of this.links[this.ids.indexOf(id)]!.values()) link.close("left");
  }

  close(): void {
    for (const id of this.ids) this.leave(id);
  }
}

const until = async (isTrue: () => boolean) => {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 1));
};

let ring: Ring | undefined;
afterEach(() => {
  ring?.close();
  ring = undefined;
});

describe("replicas of a ring", () => {
  it("are made of what everyone holds, follow new tokens, and are taken over when a rank goes", async () => {
    ring = new Ring(["a", "b", "c"]);
    const { ranks, replicas } = ring;
    for (const [rank, ranges] of shardTokens({ count: 3000, worldSize: 3, layout: "striped" }).entries())
      ranks[rank]!.held = ranges;
    const epochs = ring.open(64, ["a", "b", "c"]);
    await until(() => replicas.every(({ tokens }) => tokens === 1000));
    expect(replicas[1]!.byteLength).toBe(1000 * SHAPE.kvBytesPerToken);
    // An operation: asked for before it is done, refused by whoever has not begun it, and asked for again after it.
    const op = shardTokens({ start: 3000, count: 300, worldSize: 3, layout: "zigzag" });
    for (const replica of replicas) replica.expect(op);
    for (const [rank, ranges] of op.entries()) ranks[rank]!.held = unionOf(ranks[rank]!.held, ranges);
    for (const [rank, epoch] of epochs.entries()) {
      epoch.held = epoch.held!.map((held, i) => unionOf(held, op[i]!));
      replicas[rank]!.look();
    }
    await until(() => replicas.every(({ tokens }) => tokens === 1100));
    // b goes: c has its tokens, and a new neighbour.
    const before = unionOf(...ranks.map(({ held }) => held));
    ring.leave("b");
    const signal = new AbortController().signal;
    for (const i of [0, 2]) replicas[i]!.interrupt();
    const counts = await Promise.all(
      [0, 2].map((i) => replicas[i]!.takeOver(ranks[i] as unknown as RankRun, members("a", "c"), 5000, signal)),
    );
    expect(counts).toEqual([0, 1100]);
    expect(isSameSet(before, unionOf(ranks[0]!.held, ranks[2]!.held))).toBe(true);
    ring.open(128, ["a", "c"]);
    await until(() => replicas[0]!.tokens === 2200 && replicas[2]!.tokens === 1100);
    expect(ring.broken).toEqual([]);
  });

  it("of decoded tokens come in batches", async () => {
    ring = new Ring(["a", "b"]);
    const { ranks, replicas } = ring;
    ranks[0]!.held = [{ start: 0, stride: 1, count: 10 }];
    const [, epoch] = ring.open(64, ["a", "b"]);
    await until(() => replicas[1]!.tokens === 10);
    const counts: number[] = [];
    for (let position = 10; position < 30; position++) {
      ranks[0]!.held = [{ start: 0, stride: 1, count: position + 1 }];
      epoch!.held = [ranks[0]!.held, []];
      replicas[1]!.look();
      await new Promise((resolve) => setTimeout(resolve, 3));
      counts.push(replicas[1]!.tokens);
    }
    await until(() => replicas[1]!.tokens >= 26);
    // Not one question per token, and never far behind.
    expect(new Set(counts).size).toBeLessThanOrEqual(4);
    for (const [i, count] of counts.entries()) expect(10 + i + 1 - count).toBeLessThan(16);
  });

  it("are taken over as far as there is room", async () => {
    ring = new Ring(["a", "b"]);
    ring.ranks[0]!.held = [{ start: 0, stride: 2, count: 100 }];
    ring.open(64, ["a", "b"]);
    await until(() => ring!.replicas[1]!.tokens === 100);
    ring.leave("a");
    const run = ring.ranks[1] as unknown as RankRun;
    expect(await ring.replicas[1]!.takeOver(run, members("b"), 30, new AbortController().signal)).toBe(30);
    expect(tokenCount(differenceOf([{ start: 0, stride: 2, count: 100 }], run.held))).toBe(70);
    expect(await ring.replicas[1]!.takeOver(run, members("b"), 30, new AbortController().signal)).toBe(0);
  });

  it("are given to the neighbour alone, in bounds; broken questions are told on", async () => {
    ring = new Ring(["a", "b", "c"]);
    ring.ranks[0]!.held = [{ start: 0, stride: 1, count: 100 }];
    ring.open(64, ["a", "b", "c"]);
    const fromC = ring.links[2]!.get("a")!;
    const got: ControlMessage[] = [];
    fromC.onControl = (message) => void got.push(message);
    // c is not the rank after a.
    fromC.sendControl({ type: "replicaWant", epoch: 64, ticket: 1, tokens: [0, 1, 5] });
    const fromB = ring.links[1]!.get("a")!;
    const answers: ControlMessage[] = [];
    fromB.onControl = (message) => void answers.push(message);
    fromB.sendControl({ type: "replicaWant", epoch: 64, ticket: 900, tokens: [90, 1, 20] });
    await until(() => answers.length > 0);
    expect(answers).toEqual([{ type: "replicaNone", epoch: 64, ticket: 900 }]);
    expect(ring.broken).toEqual([]);
    fromC.sendControl({ type: "replicaWant", epoch: 64, ticket: 1, tokens: [0, 0, 5] });
    fromC.sendControl({ type: "replicaWho" });
    await until(() => ring!.broken.length === 2);
    for (let ticket = 1000; ticket < 1006; ticket++)
      fromB.sendControl({ type: "replicaWant", epoch: 64, ticket, tokens: [0, 1, 5] });
    await until(() => ring!.broken.length > 2);
    expect(ring.broken[2]).toContain("expected at most 4 questions at once");
    expect(got).toEqual([]);
  });
});
