/** The link suite over wires that Node has: memory, memory slowed down, ports, and several at once. */
import { throttle } from "../../src/link/throttle.ts";
import type { Wire } from "../../src/link/types.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import { createPortWire } from "../../src/link/wire-port.ts";
import { type Connection, linkConformance } from "../link-conformance.ts";
import { LocalEnd } from "../link-end.ts";

const MIB = 2 ** 20;

/** A connection in this thread; `make` gives the two ends of one wire and what cuts it. */
async function connectLocally(make: () => { ends: [Wire, Wire]; cut(): void }, lanes = 1): Promise<Connection> {
  let cuts: (() => void)[] = [];
  const wires = () => {
    const made = Array.from({ length: lanes }, make);
    cuts = made.map(({ cut }) => cut);
    return [made.map(({ ends }) => ends[0]), made.map(({ ends }) => ends[1])] as const;
  };
  const [first, second] = wires();
  const a = new LocalEnd({ selfId: "a", peerId: "b", wires: first });
  const b = new LocalEnd({ selfId: "b", peerId: "a", wires: second });
  return {
    a,
    b,
    async cut() {
      for (const cut of cuts) cut();
    },
    async replace() {
      const [one, other] = wires();
      a.attachWires(one);
      // The other end hears of it later.
      await new Promise((resolve) => setTimeout(resolve, 2));
      b.attachWires(other);
    },
    dispose() {},
  };
}

function memory() {
  const ends = createMemoryWires();
  return { ends, cut: () => ends[0].cut() } as { ends: [Wire, Wire]; cut(): void };
}

const slow = (bytesPerSecond: number, latencyMs: number) => () => {
  const { ends, cut } = memory();
  return { ends: ends.map((end) => throttle(end, { bytesPerSecond, latencyMs })) as [Wire, Wire], cut };
};

function ports() {
  const { port1, port2 } = new MessageChannel();
  const ends: [Wire, Wire] = [createPortWire(port1, "worker"), createPortWire(port2, "worker")];
  return { ends, cut: () => port1.close() };
}

linkConformance("memory", () => connectLocally(memory), { kind: "memory", mostBufferedBytes: 6 * MIB });
linkConformance("slow memory: 60 MB/s, 15 ms", () => connectLocally(slow(60e6, 15)), {
  kind: "memory",
  mostBufferedBytes: 3 * MIB,
  largeBytes: MIB + 4711,
});
linkConformance("three lanes of 20 MB/s, 5 ms", () => connectLocally(slow(20e6, 5), 3), {
  kind: "memory",
  mostBufferedBytes: 3 * MIB,
  largeBytes: MIB + 4711,
});
linkConformance("ports", () => connectLocally(ports), { kind: "worker", mostBufferedBytes: 6 * MIB });
