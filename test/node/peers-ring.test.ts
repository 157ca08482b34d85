/** A ring of peers, whatever happens to it: the answer is the one that a single machine gives. On a virtual clock. */
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

/** One thing that may happen. */
type Fault = (simulation: Simulation, peers: SimulatedPeer[], pick: () => SimulatedPeer | undefined) => string;

const FAULTS: Record<string, Fault> = {
  killed: (simulation, _peers, pick) => {
    const peer = pick();
    if (peer) simulation.kill(peer, false);
    return peer?.id ?? "nobody";
  },
  closed: (simulation, _peers, pick) => {
    const peer = pick();
    if (peer) simulation.kill(peer, true);
    return peer?.id ?? "nobody";
  },
  left: (_simulation, _peers, pick) => {
    const peer = pick();
    if (peer) {
      void peer.peer.leave();
      peer.isDead = true;
    }
    return peer?.id ?? "nobody";
  },
  "frozen for 3 s": (simulation, peers) => {
    const peer = peers[Math.floor(simulation.random() * peers.length)]!;
    simulation.freeze(peer, 3000);
    return peer.id;
  },
  "frozen for 8 s": (simulation, peers) => {
    const peer = peers[Math.floor(simulation.random() * peers.length)]!;
    simulation.freeze(peer, 8000);
    return peer.id;
  },
  "link cut for 2 s": (simulation, peers) => {
    const [a, b] = [
      peers[Math.floor(simulation.random() * peers.length)]!,
      peers[Math.floor(simulation.random() * peers.length)]!,
    ];
    if (a !== b) simulation.cut(a, b, 2000);
    return `${a.id}-${b.id}`;
  },
  "link cut for 9 s": (simulation, peers) => {
    const [a, b] = [
      peers[Math.floor(simulation.random() * peers.length)]!,
      peers[Math.floor(simulation.random() * peers.length)]!,
    ];
    if (a !== b) simulation.cut(a, b, 9000);
    return `${a.id}-${b.id}`;
  },
  "device lost": (simulation, peers) => {
    const peer = peers[Math.floor(simulation.random() * peers.length)]!;
    if (!simulation.isFrozen(peer)) peer.destroyDevice();
    return peer.id;
  },
  slowed: (simulation, peers) => {
    const peer = peers[Math.floor(simulation.random() * peers.length)]!;
    peer.slowness = 200;
    return peer.id;
  },
  joined: (simulation, peers) => {
    const peer = simulation.add(`j${simulation.peers.length}`);
    peers.push(peer);
    return peer.id;
  },
};

/** One run under seeded faults; the first peer starts it. */
async function shaken(seed: number): Promise<void> {
  const simulation = new Simulation(seed);
  const worldSize = 2 + Math.floor(simulation.random() * 4);
  const peers = await simulation.ring(worldSize);
  // Slow enough that faults come in the middle.
  for (const peer of peers) peer.slowness = 10;
  const ids = prompt(20 + Math.floor(simulation.random() * 300));
  const count = 5 + Math.floor(simulation.random() * 60);
  const golden = goldenAnswer(ids, count, simulation.values);
  const story: string[] = [];
  const [first] = peers;
  const got: number[] = [];
  let end: { error?: unknown } | undefined;
  void (async () => {
    for await (const piece of first!.peer.generate(ids, {
      maxNewTokens: count,
      prefillChunkSize: 8 + Math.floor(simulation.random() * 24),
    }))
      got.push(piece.tokenId);
  })().then(
    () => {
      end = {};
    },
    (error) => {
      end = { error };
    },
  );
  const living = () => peers.filter(({ isDead }) => !isDead);
  // One stays: a ring of which nobody is left answers nobody.
  const pick = () => {
    const all = living();
    return all.length > 1 ? all[Math.floor(simulation.random() * all.length)] : undefined;
  };
  const names = Object.keys(FAULTS);
  const faults = 1 + Math.floor(simulation.random() * 4);
  for (let i = 0; i < faults; i++) {
    await simulation.pass(simulation.random() * (simulation.random() < 0.5 ? 150 : 6000));
    const name = names[Math.floor(simulation.random() * names.length)]!;
    const alive = living();
    const before = alive.length;
    const who = FAULTS[name]!(simulation, alive, pick);
    for (const one of alive.slice(before)) peers.push(one);
    story.push(`${simulation.nowMs.toFixed(0)} ${name}: ${who}`);
  }
  // Those who came when all was over have nothing to tell.
  if (living().every((one) => one.id.startsWith("j") && !one.events.some(({ event }) => event.type === "run"))) return;
  const context = () =>
    `seed ${seed}, ${worldSize} peers, prompt ${ids.length}, ${count} tokens\n${story.join("\n")}\n${simulation.describe()}`;
  try {
    await simulation.until(
      () =>
        living().some((one) => one.ends.length > 0) &&
        living().every((one) => one.ends.length > 0 || one.id.startsWith("j")),
    );
  } catch (error) {
    throw new Error(`${context()}\n${(error as Error).message.slice(0, 100)}`);
  }
  // Where the one who asked went before anybody had the question, it is said.
  const isUnasked = living().every((one) => !one.events.some(({ event }) => event.type === "run"));
  for (const one of living()) {
    if (one.ends.length === 0) continue;
    if (isUnasked) expect(one.ends[0]!.message).toMatch(/gone before/);
    if (isUnasked) continue;
    expect(one.ends[0]!.stopReason, context()).toBe("maxNewTokens");
    expect(one.tokenIds.join(), `${one.id}\n${simulation.broken.slice(0, 5).join("\n")}\n${context()}`).toBe(
      golden.join(),
    );
  }
  if (!first!.isDead) {
    await simulation.until(() => end !== undefined);
    expect(end?.error, context()).toBeUndefined();
    expect(got, context()).toEqual(golden);
  }
  expect(simulation.broken, context()).toEqual([]);
}

describe("a ring under faults", () => {
  const [from, to] = (process.env.RINGWISE_SEEDS ?? "0-60").split("-").map(Number);
  for (let seed = from!; seed < to!; seed += 10)
    it(`seeds ${seed} to ${seed + 9} give the answer of one`, async () => {
      const failures: string[] = [];
      for (let one = seed; one < Math.min(to!, seed + 10); one++)
        await shaken(one).catch((error) => failures.push(`${error.message}`));
      if (failures.length > 0) throw new Error(`${failures.length} failed\n${failures[0]}`);
    }, 60_000);
});
