/** Peers of one page, over wires in memory, give the published tokens; also when one of them goes in the middle. */
import { afterEach, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import { createPeer } from "../../src/peers/create-peer.ts";
import type { Peer, PeerEvent, PeerGenerateOptions } from "../../src/peers/types.ts";
import { golden, hasShared, stories } from "./model-fixtures.ts";

interface TestPeer {
  peer: Peer;
  device: GPUDevice;
  events: PeerEvent[];
}

let open: TestPeer[] = [];
afterEach(async () => {
  for (const { peer } of open) await peer.leave("the test is over");
  for (const { device } of open) device.destroy();
  open = [];
});

/** One more peer, linked with those that are there. Only the first brings the model. */
async function join(): Promise<TestPeer> {
  const id = `p${open.length}`;
  const isLeader = open.length === 0;
  const events: PeerEvent[] = [];
  const one = { events, device: await requestRingwiseDevice() } as TestPeer;
  const files = await stories();
  one.peer = createPeer({
    id,
    name: id,
    isLeader,
    ...(isLeader && { source: files }),
    admit: "all",
    requestDevice: async () => one.device,
    onEvent: (event) => void events.push(event),
  });
  for (const other of open) {
    const [mine, theirs] = createMemoryWires();
    one.peer.connect(other.peer.id, [mine]);
    other.peer.connect(id, [theirs]);
  }
  open.push(one);
  return one;
}

async function ring(count: number): Promise<TestPeer[]> {
  while (open.length < count) await join();
  await open[0]!.peer.ready(count);
  return open;
}

const pieces = ({ events }: TestPeer) =>
  events.flatMap((event) => (event.type === "piece" ? [event.piece.tokenId] : []));

async function generate(
  leader: TestPeer,
  prompt: number[],
  count: number,
  options: PeerGenerateOptions = {},
  onPiece?: (count: number) => void,
) {
  const got: number[] = [];
  const run = leader.peer.generate(prompt, { maxNewTokens: count, ...options });
  for await (const piece of run) {
    got.push(piece.tokenId);
    onPiece?.(got.length);
  }
  return { got, statistics: run.statistics };
}

describe.skipIf(!hasShared)("stories260K over peers", () => {
  for (const [count, layout] of [
    [2, "zigzag"],
    [3, "striped"],
    [5, "contiguous"],
  ] as const)
    it(`${count} peers, ${layout}`, async () => {
      const ids = await golden();
      const peers = await ring(count);
      const { got, statistics } = await generate(peers[0]!, ids.slice(0, 150), 20, { layout, prefillChunkSize: 16 });
      expect(got).toEqual(ids.slice(150, 170));
      expect(statistics.ring.ranks).toHaveLength(count);
      expect(statistics.ring.ranks.reduce((sum, { kvTokens }) => sum + kvTokens, 0)).toBe(169);
      for (const peer of peers) await expect.poll(() => pieces(peer)).toEqual(got);
    });

  it("goes on when a peer leaves, and when the leader does", async () => {
    const ids = await golden();
    const peers = await ring(3);
    const [first, second, third] = peers;
    const run = generate(first!, ids.slice(0, 120), 40, { prefillChunkSize: 16 }, (count) => {
      if (count === 5) void third!.peer.leave("closed its tab");
      if (count === 20) void first!.peer.leave("closed its tab, too");
    });
    await expect(run).rejects.toThrow(/left/);
    await expect.poll(() => pieces(second!), { timeout: 20_000 }).toEqual(ids.slice(120, 160));
    expect(second!.events.findLast(({ type }) => type === "end")).toMatchObject({ stopReason: "maxNewTokens" });
    expect(second!.events.some(({ type }) => type === "recovered")).toBe(true);
  });
});
