/** Real K/V on their way between peers: who goes is replaced at once, who comes gets a share, and the published tokens go on. */
import { afterEach, describe, expect, it } from "vitest";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import { createPeer } from "../../src/peers/create-peer.ts";
import type { Peer, PeerEvent } from "../../src/peers/types.ts";
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

/** Peers of one page, linked with each other; only the first brings the model. */
async function ring(count: number): Promise<TestPeer[]> {
  const files = await stories();
  for (let index = open.length; index < count; index++) {
    const events: PeerEvent[] = [];
    const device = await requestRingwiseDevice();
    const peer = createPeer({
      ...{ id: `p${index}`, name: `p${index}`, isLeader: index === 0, admit: "all" },
      ...(index === 0 && { source: files }),
      requestDevice: async () => device,
      onEvent: (event) => void events.push(event),
    });
    for (const other of open) {
      const [mine, theirs] = createMemoryWires();
      peer.connect(other.peer.id, [mine]);
      other.peer.connect(peer.id, [theirs]);
    }
    open.push({ peer, device, events });
  }
  await open[0]!.peer.ready(count);
  return open;
}

describe.skipIf(!hasShared)("replicas of real K/V", () => {
  it("a rank that goes in the middle of the answer takes next to nothing along", async () => {
    const ids = await golden();
    const peers = await ring(3);
    const [leader] = peers;
    const got: number[] = [];
    const run = leader!.peer.generate(ids.slice(0, 150), { maxNewTokens: 40, prefillChunkSize: 16, replicas: 1 });
    for await (const piece of run) {
      got.push(piece.tokenId);
      if (got.length === 20) void peers[2]!.peer.leave("closed");
    }
    expect(got).toEqual(ids.slice(150, 190));
    const { events } = leader!;
    const left = events.find((event) => event.type === "left");
    expect(left?.type === "left" && left.lostTokens).toBeGreaterThan(30);
    const recomputed = events.flatMap((event) => (event.type === "recovering" ? [event.totalTokens] : []));
    expect(Math.max(0, ...recomputed)).toBeLessThan(20);
    // The leader, or the one that is left, has them now.
    expect(run.statistics.ring.ranks.reduce((sum, { kvTokens }) => sum + kvTokens, 0)).toBe(189);
  });

  it("a rank that comes in the middle of the answer gets its share of what is held", async () => {
    const ids = await golden();
    const peers = await ring(2);
    const got: number[] = [];
    const count = ids.length - 100;
    const run = peers[0]!.peer.generate(ids.slice(0, 100), { maxNewTokens: count, prefillChunkSize: 32 });
    let joining: Promise<unknown> | undefined;
    let hasJoined = false;
    let heldEarly = 0;
    let since = 0;
    for await (const piece of run) {
      got.push(piece.tokenId);
      joining ??= ring(3).then(() => (hasJoined = true));
      // The answer waits for whoever iterates it.
      if (got.length === 40) await joining;
      if (open[2]?.events.some((event) => event.type === "epoch")) since++;
      if (since === 8) heldEarly = open[2]!.peer.peers.find(({ isSelf }) => isSelf)!.heldTokens;
    }
    expect(hasJoined).toBe(true);
    expect(got).toEqual(ids.slice(100, 100 + got.length));
    const held = run.statistics.ring.ranks.map(({ kvTokens }) => kvTokens);
    expect(held).toHaveLength(3);
    expect(held.reduce((sum, tokens) => sum + tokens, 0)).toBe(100 + got.length - 1);
    // Eight tokens after it came it would hold eight at most, were nothing moved.
    expect(heldEarly).toBeGreaterThan(16);
  });
});
