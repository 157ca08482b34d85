/** A ring of peers, whatever happens to it: the answer is the one that a single machine gives. On a virtual clock. */
import { createHash } from "node:crypto";
import { describe, expect, it, vi } from "vitest";
import { goldenAnswer, type SimulatedPeer, Simulation } from "./peer-simulation.ts";

// Hashes of the platform come on its own time; these come on the virtual clock's.
vi.spyOn(crypto.subtle, "digest").mockImplementation(async (_algorithm, data) => {
  const bytes = ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
  return new Uint8Array(createHash("sha256").update(bytes).digest()).buffer;
});

const prompt = (count: number) => Array.from({ length: count }, (_, index) => (index * 31 + 7) % 97);

/** Runs a prompt on the first peer; resolves with what it yielded. */
async function generate(
  simulation: Simulation,
  leader: SimulatedPeer,
  ids: readonly number[],
  count: number,
  meanwhile: () => Promise<void> = async () => {},
): Promise<number[]> {
  const got: number[] = [];
  let end: { error?: unknown } | undefined;
  const run = async () => {
    for await (const piece of leader.peer.generate(ids, { maxNewTokens: count, prefillChunkSize: 16 }))
      got.push(piece.tokenId);
  };
  run().then(
    () => {
      end = {};
    },
    (error) => {
      end = { error };
    },
  );
  await meanwhile();
  await simulation.until(() => end !== undefined);
  if (end?.error) throw end.error;
  return got;
}

describe("a ring of peers", () => {
  for (const count of [1, 2, 3, 5])
    it(`${count} peers give the answer of one`, async () => {
      const simulation = new Simulation(count);
      const peers = await simulation.ring(count);
      const ids = prompt(150);
      const golden = goldenAnswer(ids, 20);
      expect(await generate(simulation, peers[0]!, ids, 20)).toEqual(golden);
      await simulation.pass(100);
      for (const peer of peers) {
        expect(peer.tokenIds).toEqual(golden);
        expect(peer.ends.map(({ stopReason }) => stopReason)).toEqual(["maxNewTokens"]);
      }
      expect(simulation.broken).toEqual([]);
    });
});
