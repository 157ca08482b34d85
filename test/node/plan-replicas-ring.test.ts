/**
 * A ring of peers that keep replicas, and one that others join: what goes with a peer is there again at once, who comes gets its
 * share of what is there. On a virtual clock, as peers-ring.test.ts.
 */
import { createHash } from "node:crypto";
import { describe, expect, it, vi } from "vitest";
import { goldenAnswer } from "./fake-rank.ts";
import { type SimulatedPeer, Simulation } from "./peer-simulation.ts";

// Hashes of the platform come on its own time; these come on the virtual clock's.
vi.spyOn(crypto.subtle, "digest").mockImplementation(async (_algorithm, data) => {
  const bytes = ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
  return new Uint8Array(createHash("sha256").update(bytes).digest()).buffer;
});

const ids = Array.from({ length: 200 }, (_, index) => (index * 31 + 7) % 97);
const NEW_TOKENS = 60;
const golden = goldenAnswer(ids, NEW_TOKENS);

/** A run in which one peer dies once somebody has seen so many tokens of the answer. */
async function runWithDeath(options: { victim: number; afterTokens: number; replicas: 0 | 1; count: number }) {
  const { victim, afterTokens, replicas, count } = options;
  const simulation = new Simulation(victim * 10 + afterTokens);
  goldenAnswer(ids, NEW_TOKENS, simulation.values);
  const peers = await simulation.ring(count);
  const run = async () => {
    const settings = { maxNewTokens: NEW_TOKENS, prefillChunkSize: 16, replicas };
    for await (const _ of peers[0]!.peer.generate(ids, settings)) if (peers[0]!.isDead) return;
  };
  run().catch(() => {});
  const others = peers.filter((_, index) => index !== victim);
  await simulation.until(() => others[0]!.tokenIds.length >= afterTokens);
  simulation.kill(peers[victim]!, true);
  await simulation.until(() => others.every(({ ends }) => ends.length > 0));
  for (const peer of others) expect(peer.tokenIds).toEqual(golden);
  expect(simulation.broken).toEqual([]);
  const recovering = (peer: SimulatedPeer) =>
    peer.events.flatMap(({ event }) => (event.type === "recovering" ? [event.totalTokens] : []));
  return { recomputed: Math.max(0, ...others.flatMap(recovering)), imported: simulation.importedTokens };
}

describe("a ring that keeps replicas", () => {
  for (const count of [2, 3, 5])
    it(`${count} peers: whoever goes, next to nothing is computed again`, async () => {
      for (let victim = 0; victim < count; victim++) {
        const { recomputed, imported } = await runWithDeath({ count, victim, afterTokens: 30, replicas: 1 });
        // What was decoded in the last moment may not have been copied yet.
        expect(recomputed).toBeLessThan(20);
        expect(imported).toBeGreaterThan(200 / count - 20);
      }
    });

  it("without them, what went is computed again", async () => {
    const { recomputed, imported } = await runWithDeath({ count: 3, victim: 1, afterTokens: 30, replicas: 0 });
    expect(recomputed).toBeGreaterThan(60);
    expect(imported).toBe(0);
  });

  it("two who go one after the other are both replaced", async () => {
    const simulation = new Simulation(77);
    goldenAnswer(ids, NEW_TOKENS, simulation.values);
    const peers = await simulation.ring(4);
    const run = async () => {
      const settings = { maxNewTokens: NEW_TOKENS, prefillChunkSize: 16, replicas: 1 as const };
      for await (const _ of peers[0]!.peer.generate(ids, settings));
    };
    const done = run();
    await simulation.until(() => peers[0]!.tokenIds.length >= 15);
    const atRank = (rank: number) => {
      const id = peers[0]!.peer.peers.find((peer) => peer.rank === rank)?.id;
      return peers.find((peer) => peer.id === id)!;
    };
    // The rank after the first victim takes its tokens over, and is the second.
    const [first, second] = [atRank(1), atRank(2)];
    simulation.kill(first, true);
    await simulation.until(() => peers[0]!.tokenIds.length >= 40);
    const after = simulation.importedTokens;
    expect(after).toBeGreaterThan(30);
    simulation.kill(second, true);
    await simulation.until(() => peers[0]!.ends.length > 0);
    await done;
    // The second one had taken over the tokens of the first: a new copy of all of that had been made.
    expect(simulation.importedTokens - after).toBeGreaterThan(80);
    expect(peers[0]!.tokenIds).toEqual(golden);
    expect(simulation.broken).toEqual([]);
  });
});

describe("one who joins in the middle of a run", () => {
  for (const replicas of [0, 1] as const)
    it(`gets its share of what is held, while the answer goes on (replicas: ${replicas})`, async () => {
      const simulation = new Simulation(5 + replicas);
      const count = 200;
      const answer = goldenAnswer(ids, count);
      goldenAnswer(ids, count, simulation.values);
      const peers = await simulation.ring(2);
      const run = async () => {
        const settings = { maxNewTokens: count, prefillChunkSize: 16, replicas };
        for await (const _ of peers[0]!.peer.generate(ids, settings));
      };
      const done = run();
      await simulation.until(() => peers[0]!.tokenIds.length >= 5);
      const joiner = simulation.add("joiner");
      const held = () => joiner.peer.peers.find(({ isSelf }) => isSelf)!.heldTokens;
      await simulation.until(() => held() > 0);
      const before = peers[0]!.tokenIds.length;
      await simulation.until(() => held() >= 60);
      // Two moves, one of each of the two, and hardly a token of the answer later.
      expect(peers[0]!.tokenIds.length - before).toBeLessThan(5);
      expect(simulation.importedTokens).toBeGreaterThanOrEqual(60);
      const moved = simulation.importedTokens;
      if (replicas === 1) {
        // It goes again: what it had been given is copied by then.
        await simulation.until(() => peers[0]!.tokenIds.length >= 170);
        simulation.kill(joiner, true);
      }
      await simulation.until(() => peers[0]!.ends.length > 0);
      await done;
      expect(peers[0]!.tokenIds).toEqual(answer);
      expect(simulation.broken).toEqual([]);
      if (replicas === 1) expect(simulation.importedTokens - moved).toBeGreaterThanOrEqual(60);
      const recomputed = peers[0]!.events.flatMap(({ event }) =>
        event.type === "recovering" ? [event.totalTokens] : [],
      );
      expect(Math.max(0, ...recomputed)).toBeLessThan(20);
    });
});
