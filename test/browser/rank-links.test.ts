/** What can go wrong between ranks, and what must not cost time: broken neighbours, aborts, slow links. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LinkError, OptionError } from "../../src/errors.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { createLink } from "../../src/link/link.ts";
import { throttle } from "../../src/link/throttle.ts";
import type { Link } from "../../src/link/types.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import { blockTable } from "../../src/ring/block-parcel.ts";
import type { RankStep, Rotation } from "../../src/ring/rank-types.ts";
import { shardTokens } from "../../src/ring/shard.ts";
import type { TokenRange } from "../../src/ring/types.ts";
import { type Join, joinByMemory, RankWorld, sequence } from "./rank-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

const ROTATIONS: Rotation[] = ["keyValue", "query"];
const run = (start: number, count: number): TokenRange => ({ start, stride: 1, count });
const { signal } = new AbortController();

describe("a neighbour that does not keep to the plan is refused", () => {
  const ROW = 2 * 2 * 4 * 4;

  /** Rank 0 attends; what rank 1 sends as its block of tokens 8 to 15 is `bytes`. */
  async function attendWith(bytes: Uint8Array<ArrayBuffer>): Promise<unknown> {
    const world = await RankWorld.open(device, sequence(16, { isCausal: false }), 2);
    await world.append(0, [run(0, 8)]);
    await world.append(1, [run(8, 8)]);
    const link = world.links[1]!.next!;
    const key = { epoch: 1, op: 0, layer: 0, kind: "block", rank: 1 } as const;
    link.send(key, [bytes], bytes.byteLength, signal).catch(() => {});
    const error = await world.attendOne(0, 0, [[run(0, 8)], []]).then(
      () => undefined,
      (reason) => reason,
    );
    world.destroy();
    return error;
  }

  const parcel = (table: Uint8Array<ArrayBuffer>, tokens: number) => {
    const bytes = new Uint8Array(table.byteLength + tokens * ROW);
    bytes.set(table);
    return bytes;
  };
  const withWord = (index: number, word: number) => {
    const bytes = parcel(blockTable(1, 4, [[run(8, 8)]]), 8);
    new DataView(bytes.buffer).setUint32(index * 4, word, true);
    return bytes;
  };
  const who = "attend: expected the block of rank 1 from rank 1 with";

  it("takes what the plan says, in any order of pages", async () => {
    expect(await attendWith(parcel(blockTable(1, 4, [[run(12, 4)], [run(8, 1), run(9, 3)]]), 8))).toBe(undefined);
  });

  it.each([
    ["other tokens", () => parcel(blockTable(1, 4, [[run(9, 8)]]), 8), "tokens 8-15, got tokens 9-16"],
    [
      "a token twice",
      () => parcel(blockTable(1, 4, [[run(8, 7)], [run(14, 1)]]), 8),
      "tokens 8-15, got tokens 8-14, 14",
    ],
    ["too few", () => parcel(blockTable(1, 4, [[run(8, 7)]]), 7), "tokens 8-15, got tokens 8-14"],
    ["too many", () => parcel(blockTable(1, 4, [[run(8, 9)]]), 9), "tokens of 1 to 8, got 9"],
    [
      "descending positions",
      () => parcel(blockTable(1, 4, [[run(12, 4), run(8, 4)]]), 8),
      "ascending positions of 16 to 2147483647, got 8",
    ],
    ["another's block", () => withWord(1, 0), "owner of 1, got 0"],
    ["f16 where f32 was agreed", () => withWord(2, 2), "bytes per element of 4, got 2"],
    ["a NaN for a position", () => withWord(5, 0x7fc00000), "tokens 8-15, got tokens 2143289344-2143289351"],
    ["a stride of nothing", () => withWord(6, 0), "stride of 1 to 2147483647, got 0"],
    ["a page without end", () => withWord(4, 0xffffffff), "ranges of a page of 1 to 8, got 4294967295"],
    ["rows that are missing", () => parcel(blockTable(1, 4, [[run(8, 8)]]), 7), "bytes, got"],
    ["no block at all", () => new Uint8Array(3), "the mark of a block in its table, got 3 bytes"],
  ])("%s", async (_, bytes, message) => {
    const error = await attendWith(bytes());
    expect(error).toBeInstanceOf(LinkError);
    expect((error as LinkError).why).toBe("violation");
    expect((error as LinkError).message).toContain(`${who} `);
    expect((error as LinkError).message).toContain(message);
  });

  it("too long a parcel", async () => {
    const error = await attendWith(new Uint8Array(4000));
    expect(error).toBeInstanceOf(LinkError);
  });

  it.each([
    ["query", 0],
    ["state", 1],
  ] as const)("a %s of the wrong length", async (kind, rank) => {
    const world = await RankWorld.open(device, sequence(16, { isCausal: false }), 2);
    await world.append(0, [run(0, 8)]);
    await world.append(1, [run(8, 8)]);
    const key = { epoch: 1, op: 0, layer: 0, kind, rank: 1 - rank };
    world.links[1]!.next!.send(key, [new Uint8Array(4)], 4, signal).catch(() => {});
    const queries = rank === 0 ? [[], [run(8, 8)]] : [[run(0, 8)], []];
    await expect(world.attendOne(0, 0, queries, { rotation: "query" })).rejects.toThrow(
      new LinkError(
        `attend: expected ${kind} of rank ${1 - rank} from rank 1 of ${rank === 0 ? 8 * 64 : 8 * 4 * 6 * 4} bytes, got 4`,
        "violation",
      ),
    );
    world.destroy();
  });
});

describe("a plan that does not fit is refused before anything is sent", () => {
  it("a block that holds something else, too few ranks, no links, a position twice", async () => {
    const world = await RankWorld.open(device, sequence(20), 2);
    await world.append(0, [run(0, 10)]);
    await world.append(1, [run(10, 10)]);
    const queries = [[run(0, 10)], [run(10, 10)]];
    const attempt = (placeOf: Parameters<RankWorld["attendOne"]>[3]) => world.attendOne(0, 0, queries, placeOf);
    for (const rotation of ROTATIONS)
      await expect(
        attempt({ rotation, placeOf: (place) => ({ ...place, held: [[run(0, 11)], [run(11, 9)]] }) }),
      ).rejects.toThrow("expected a block that holds what the plan says (place.held), tokens 0-10, got tokens 0-9");
    await expect(attempt({ placeOf: (place) => ({ ...place, held: [[run(0, 10)]] }) })).rejects.toThrow(
      new OptionError("RankAttention.attend: expected place.held of 2 ranks (worldSize), got 1"),
    );
    await expect(attempt({ placeOf: ({ next: _, ...place }) => place })).rejects.toThrow(
      "expected links to the next and from the previous of 2 ranks, got next undefined and previous object",
    );
    await expect(
      attempt({ placeOf: (place) => ({ ...place, held: [[run(0, 10)], [run(10, 9), run(18, 1)]] }) }),
    ).rejects.toThrow("RankAttention.attend: expected each position once, got 18 twice");
    await expect(attempt({ placeOf: (place) => ({ ...place, queries: [[run(-1, 3)], []] }) })).rejects.toThrow(
      OptionError,
    );
    expect(world.links[0]!.next!.counters.sentParcels).toBe(0);
    world.destroy();
  });
});

describe("aborts", () => {
  it.each(ROTATIONS)("in the middle leave everything usable and nothing behind, %s", async (rotation) => {
    const total = () => ledgerOf(device).total.bytes;
    const world = await RankWorld.open(device, sequence(80), 3);
    const shards = shardTokens({ count: 80, worldSize: 3, layout: "zigzag" });
    await world.step(shards, { rotation });
    const before = total();
    const reason = new Error("enough");
    await expect(world.attend(shards, { rotation, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    for (const afterMs of [0, 1, 3, 8]) {
      const controllers = [0, 1, 2].map(() => new AbortController());
      const op = world.op++;
      const signals = controllers.map((controller) => controller.signal);
      const passes = shards.map((_, rank) => world.attendOne(rank, op, shards, { rotation, signals }));
      setTimeout(() => controllers[1]!.abort(reason), afterMs);
      // The others wait for the one who has gone, until they are told.
      await passes[1]!.catch((error) => expect(error).toBe(reason));
      for (const controller of controllers) controller.abort(reason);
      for (const pass of passes) await pass.catch((error) => expect(error).toBe(reason));
      expect(total()).toBe(before);
    }
    for (const { next } of world.links) next!.setEpoch(1);
    world.output.fill(0);
    await world.attend(shards, { rotation });
    world.check([run(0, 80)]);
    expect(total()).toBe(before);
    world.destroy();
  });

  it.each(ROTATIONS)("leaving the iteration, a link that closes and destroy() end a pass, %s", async (rotation) => {
    const before = ledgerOf(device).total.bytes;
    const shards = shardTokens({ count: 60, worldSize: 3, layout: "striped" });
    const world = await RankWorld.open(device, sequence(60), 3);
    for (const [rank, ranges] of shards.entries()) await world.append(rank, ranges);
    const op = world.op++;
    const passes = shards.map((_, rank) => world.attendOne(rank, op, shards, { rotation }).catch((error) => error));
    world.links[1]!.next!.close("it has gone");
    // Rank 2 is told at once; rank 0 waits for it until it is gone too.
    expect(await passes[1]).toBeInstanceOf(LinkError);
    expect(await passes[2]).toBeInstanceOf(LinkError);
    world.ranks[0]!.destroy();
    expect(String(await passes[0])).toContain("this rank attention was destroyed");
    world.destroy();
    await expect.poll(() => ledgerOf(device).total.bytes).toBe(before);
  });
});

describe("slow links", () => {
  /** Everything that is sent goes at this rate. */
  const slow =
    (bytesPerSecond: number): Join =>
    (from, to) => {
      const [mine, theirs] = createMemoryWires();
      const ends: [Link, Link] = [
        createLink({ selfId: from, peerId: to, wires: [throttle(mine, { bytesPerSecond, latencyMs: 2 })] }),
        createLink({ selfId: to, peerId: from, wires: [throttle(theirs, { bytesPerSecond, latencyMs: 2 })] }),
      ];
      for (const end of ends) end.setEpoch(1);
      return ends;
    };

  it("a block arrives while the one before it is computed on", async () => {
    const tokens = 2048;
    const c = sequence(2 * tokens, { isCausal: false, heads: 4, kvHeads: 2, headDim: 32 });
    const pages = Array.from({ length: 16 }, (_, page) => [run(tokens + 128 * page, 128)]);
    const table = blockTable(1, 4, pages);
    // Rank 1 is a sender and no more: ranks of one page share a device, and rank 0's time must be its own.
    async function pass(join: Join) {
      const world = await RankWorld.open(device, c, 2, { pageSize: 128 }, join);
      await world.append(0, [run(0, tokens)]);
      world.held[1]!.push(run(tokens, tokens));
      const rows = pages.flatMap((ranges) => [world.rows("key", ranges), world.rows("value", ranges)]);
      const parts = [table, ...rows.map((row) => new Uint8Array(row.buffer))];
      const bytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
      let steps: RankStep[] = [];
      for (const op of [0, 1]) {
        const key = { epoch: 1, op, layer: 0, kind: "block", rank: 1 } as const;
        const sent = world.links[1]!.next!.send(key, parts, bytes, signal);
        steps = await world.attendOne(0, op, [[run(0, tokens)], []]);
        await sent;
      }
      world.destroy();
      return { bytes, own: steps[0]!, other: steps[1]! };
    }
    const fast = await pass(joinByMemory);
    expect(fast.other.receivedBytes).toBe(fast.bytes);
    // So that the block takes 0.6 of the own one's compute.
    const { own, other } = await pass(slow((fast.bytes / (0.6 * fast.own.computeMs)) * 1000));
    console.info(
      `compute ${own.computeMs.toFixed(0)} ms, transfer ${other.transferMs.toFixed(0)} ms, exposed ${other.waitMs.toFixed(1)} ms`,
    );
    // Whatever the machine did meanwhile: at least half of what could be hidden was.
    const hidden = Math.min(other.transferMs, own.computeMs);
    expect(hidden).toBeGreaterThan(0);
    expect(other.waitMs).toBeLessThan(other.transferMs - 0.5 * hidden);
  });
});
