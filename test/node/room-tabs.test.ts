/** Tabs of one browser and their broker, with the ports of Node: who meets whom, who is turned away, who is gone. */
import { describe, expect, it } from "vitest";
import { createBroker } from "../../src/room/broker.ts";
import { deriveRoomKeys, type RoomKeys } from "../../src/room/keys.ts";
import { joinTabs, type TabPeers, type TabPeersOptions } from "../../src/room/tab-peers.ts";
import { createWorkerMesh } from "../../src/room/worker-mesh.ts";

async function until(isTrue: () => boolean, what: string): Promise<void> {
  const deadlineMs = performance.now() + 5_000;
  while (!isTrue()) {
    if (performance.now() > deadlineMs) throw new Error(`until: ${what}`);
    await new Promise((next) => setTimeout(next, 2));
  }
}

/** Locks that are freed when a tab "crashes": `free(name)`. */
function fakeLocks() {
  const waiting = new Map<string, (() => void)[]>();
  const locks = {
    request: (name: string, callback: () => void) =>
      new Promise<void>((resolve) => {
        const list = waiting.get(name) ?? [];
        waiting.set(name, list);
        list.push(() => resolve(callback()));
      }),
  };
  return {
    locks: locks as unknown as LockManager,
    free(name: string) {
      for (const go of waiting.get(name)?.splice(0) ?? []) go();
    },
  };
}

interface Tab {
  id: string;
  tabs: TabPeers;
  wires: Map<string, MessagePort>;
  wireCounts: Map<string, number>;
  left: [string, string][];
  refused: string[];
  here: Set<string>;
}

/** Opens tabs on one broker. */
function browser(broker = createBroker(undefined)) {
  const start = () => {
    const { port1, port2 } = new MessageChannel();
    broker.connect(port2);
    return { port: port1, onerror: null } as unknown as SharedWorker;
  };
  return {
    broker,
    async open(id: string, keys: RoomKeys, more: Partial<TabPeersOptions> = {}): Promise<Tab> {
      const tab: Omit<Tab, "tabs"> = {
        ...{ id, wires: new Map(), wireCounts: new Map(), left: [], refused: [], here: new Set() },
      };
      const tabs = await joinTabs(
        {
          ...{ selfId: id, keys, maxPeers: 63, isBanned: () => false, otherPeerCount: () => 0, startBroker: start },
          onWires(peerId, source) {
            if (source.kind !== "tab") throw new Error(`expected a tab's port, got ${source.kind}`);
            tab.wires.set(peerId, source.port);
            tab.wireCounts.set(peerId, (tab.wireCounts.get(peerId) ?? 0) + 1);
          },
          onLeft: (peerId, reason) => tab.left.push([peerId, reason]),
          onRefused: (reason) => tab.refused.push(reason),
          ...more,
        },
        (peerId, isHere) => void (isHere ? tab.here.add(peerId) : tab.here.delete(peerId)),
      );
      return { ...tab, tabs };
    },
  };
}

const keysOf = (byte: number) => deriveRoomKeys(new Uint8Array(16).fill(byte));

/** Text through a pair's ports. */
async function talk(a: Tab, b: Tab): Promise<string> {
  const port = b.wires.get(a.id)!;
  const heard = new Promise<string>((resolve) => (port.onmessage = ({ data }) => resolve(data as string)));
  a.wires.get(b.id)!.postMessage(`from ${a.id}`);
  return heard;
}

const close = (...tabs: Tab[]) => {
  for (const tab of tabs) {
    tab.tabs.leave();
    for (const port of tab.wires.values()) port.close();
  }
};

describe("tabs of one browser", () => {
  it("meet in pairs, those of one room only, and talk over ports of their own", async () => {
    const { open, broker } = browser();
    const [keys, others] = await Promise.all([keysOf(1), keysOf(2)]);
    const [a, b, c] = [await open("a", keys), await open("b", keys), await open("c", keys)];
    const stranger = await open("stranger", others);
    await until(() => [a, b, c].every(({ wires }) => wires.size === 2), "all have met");
    expect(await Promise.all([talk(a, b), talk(b, c), talk(c, a)])).toEqual(["from a", "from b", "from c"]);
    expect(stranger.wires.size).toBe(0);
    expect([...a.here].sort()).toEqual(["b", "c"]);
    expect(broker.tabCount).toBe(4);
    close(a, b, c, stranger);
    await until(() => broker.tabCount === 0, "none is left");
  });

  it("hear at once who left, and of a crash by the platform's lock", async () => {
    const { locks, free } = fakeLocks();
    const { open, broker } = browser(createBroker(locks));
    const keys = await keysOf(1);
    const [a, b, c] = [await open("a", keys), await open("b", keys), await open("c", keys)];
    await until(() => a.wires.size === 2, "all have met");
    b.tabs.leave();
    await until(() => a.left.length === 1, "b left");
    expect(a.left).toEqual([["b", "left the room"]]);
    free(`ringwise ${keys.roomId} c`);
    await until(() => a.left.length === 2, "c crashed");
    expect(a.left[1]).toEqual(["c", "its tab was closed"]);
    expect(broker.tabCount).toBe(1);
    close(a, b, c);
  });

  it("turn away a page of the same origin that knows the room but not the secret, and tell both", async () => {
    const { open } = browser();
    const [keys, others] = await Promise.all([keysOf(1), keysOf(2)]);
    const a = await open("a", keys);
    const thief = await open("thief", { ...others, roomId: keys.roomId });
    await until(() => a.refused.length > 0 && thief.refused.length > 0, "both are told");
    expect(a.refused[0]).toMatch(/turned away.*proof of the secret failed|The other side said no/);
    expect([a.wires.size, thief.wires.size]).toEqual([0, 0]);
    close(a, thief);
  });

  it("turn away the banned, and those who come when the room is full", async () => {
    const { open } = browser();
    const keys = await keysOf(1);
    const a = await open("a", keys, { maxPeers: 1, isBanned: (id) => id === "banned" });
    const banned = await open("banned", keys);
    await until(() => banned.refused.length > 0, "the banned one is told");
    expect(banned.refused[0]).toMatch(/You were removed from this room/);
    const b = await open("b", keys);
    await until(() => a.wires.has("b"), "b is in");
    const late = await open("late", keys);
    await until(() => late.refused.length > 0, "the late one is told");
    expect(late.refused.join()).toMatch(/The room is full \(2 peers\)/);
    expect([...a.wires.keys()]).toEqual(["b"]);
    expect([...late.wires.keys()].sort()).toEqual(["b", "banned"]);
    close(a, banned, b, late);
  });

  it("get new ports for a silent pair, once, though both ask", async () => {
    const { open } = browser();
    const keys = await keysOf(1);
    const [a, b] = [await open("a", keys), await open("b", keys)];
    await until(() => a.wires.size === 1 && b.wires.size === 1, "they have met");
    await new Promise((next) => setTimeout(next, 320));
    for (const port of [a.wires.get("b")!, b.wires.get("a")!]) port.close();
    a.tabs.reconnect("b");
    b.tabs.reconnect("a");
    await until(() => a.wireCounts.get("b") === 2 && b.wireCounts.get("a") === 2, "new ports");
    expect(await talk(b, a)).toBe("from b");
    await new Promise((next) => setTimeout(next, 50));
    expect([a.wireCounts.get("b"), b.wireCounts.get("a"), a.left.length]).toEqual([2, 2, 0]);
    close(a, b);
  });

  it("stay in when they come to the broker anew, and are not introduced twice", async () => {
    const { locks, free } = fakeLocks();
    const { open, broker } = browser(createBroker(locks));
    const keys = await keysOf(1);
    const [a, b] = [await open("a", keys), await open("b", keys)];
    await until(() => a.wires.size === 1 && b.wires.size === 1, "they have met");
    const { port1, port2 } = new MessageChannel();
    broker.connect(port2);
    const heard: unknown[] = [];
    port1.onmessage = ({ data }) => heard.push(data);
    port1.postMessage({ type: "join", roomId: keys.roomId, peerId: "b", has: ["a"] });
    await until(() => heard.length === 1, "the broker answers");
    expect(heard).toEqual([{ type: "joined", peerIds: ["a"] }]);
    expect([broker.tabCount, a.left, a.wireCounts.get("b")]).toEqual([2, [], 1]);
    free(`ringwise ${keys.roomId} b`);
    await until(() => a.left.length === 1, "its end is noticed over the new port too");
    port1.close();
    close(a, b);
  });

  it("leave nothing behind after a hundred joins and leaves", async () => {
    const { open, broker } = browser();
    const keys = await keysOf(1);
    const a = await open("a", keys);
    for (let i = 0; i < 100; i++) {
      const guest = await open(`guest${i}`, keys);
      await until(() => a.wires.has(guest.id) && guest.wires.has("a"), "they have met");
      a.wires.get(guest.id)!.close();
      close(guest);
      await until(() => a.left.length === i + 1, "it left");
    }
    expect(broker.tabCount).toBe(1);
    expect(a.here.size).toBe(0);
    close(a);
  });

  it("do without a broker where the platform has none, and shrug off nonsense where it has", async () => {
    const keys = await keysOf(1);
    const { open, broker } = browser();
    const none = await open("none", keys, { startBroker: () => undefined });
    const forbidden = await open("forbidden", keys, {
      startBroker() {
        throw new DOMException("no", "SecurityError");
      },
    });
    expect([none.tabs.isAvailable, forbidden.tabs.isAvailable]).toEqual([false, false]);
    const { port1, port2 } = new MessageChannel();
    broker.connect(port2);
    for (const message of [
      null,
      7,
      {},
      { type: "join" },
      { type: "join", roomId: "x y", peerId: 1 },
      { type: "pair", peerId: "a" },
    ])
      port1.postMessage(message);
    const a = await open("a", keys);
    expect(broker.tabCount).toBe(1);
    port1.close();
    close(none, forbidden, a);
  });
});

describe("a mesh of workers", () => {
  it("links each pair by a channel", async () => {
    const mesh = createWorkerMesh(["a", "b", "c"]);
    expect([...mesh.values()].map((ports) => [...ports.keys()])).toEqual([
      ["b", "c"],
      ["a", "c"],
      ["a", "b"],
    ]);
    const heard = new Promise((resolve) => (mesh.get("c")!.get("a")!.onmessage = ({ data }) => resolve(data)));
    mesh.get("a")!.get("c")!.postMessage("hello");
    expect(await heard).toBe("hello");
    for (const ports of mesh.values()) for (const port of ports.values()) port.close();
  });
});
