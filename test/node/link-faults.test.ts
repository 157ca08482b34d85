/** Links whose wires damage, lose, repeat and swap messages: everything still arrives once, in order, and right. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { type FaultKind, faulty } from "../../src/link/fault.ts";
import { throttle } from "../../src/link/throttle.ts";
import type { ParcelKey, Wire } from "../../src/link/types.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import { until } from "../link-conformance.ts";
import { LocalEnd } from "../link-end.ts";

const LARGE = 2 ** 20 + 2 ** 15 + 13;
const key = (op: number, kind: ParcelKey["kind"]): ParcelKey => ({ epoch: 4, op, layer: 0, kind, rank: 2 });

/** Both ways: control messages, small parcels, large parcels; all must arrive. @returns what both ends tell then. */
async function exchange(a: LocalEnd, b: LocalEnd, large = [LARGE, 300_007, 100_000]) {
  const messages = Array.from({ length: 20 }, (_, index) => ({ type: "m", index, text: "t".repeat(index * 977) }));
  await Promise.all([a.setEpoch(4), b.setEpoch(4)]);
  let operation = 0;
  const outcomes = [
    [a, b],
    [b, a],
  ].flatMap(([from, to], way) => {
    const blocks = large.map((byteLength, op) => ({ byteLength, key: key(op, "block") }));
    const asks = Array.from({ length: 12 }, (_, op) => ({ byteLength: op * 1500, key: key(op, "ask") }));
    const all = [...blocks, ...asks].map((parcel, index) => ({ ...parcel, seed: index + way * 100 }));
    const received = all.map((parcel) => to!.receive(++operation, parcel.key, parcel.byteLength, parcel.seed));
    const sent = all.map((parcel) => from!.send({ operation: ++operation, ...parcel }));
    return [...received, ...sent];
  });
  await a.sendControl(messages);
  await b.sendControl(messages);
  for (const outcome of await Promise.all(outcomes)) expect(outcome).toMatchObject({ ok: true, isRight: true });
  const ends = [a, b];
  const statuses = await Promise.all(
    ends.map((end) =>
      until(
        () => end.status(),
        ({ controls, heldBytes }) => controls.length >= messages.length && heldBytes === 0,
        "messages",
      ),
    ),
  );
  for (const { controls, isClosed, counters } of statuses) {
    expect(controls).toEqual(messages);
    expect(isClosed).toBe(false);
    expect(counters.receivedParcels).toBe(large.length + 12);
    expect(counters.sentParcels).toBe(large.length + 12);
  }
  return statuses;
}

type Fault = { kind: FaultKind; at: number; every?: number };

/** An exchange in which a's messages suffer; wires that are cut are replaced. */
async function exchangeWith(faults: readonly Fault[], seed: number, lanes = 1, leastBytes = 0) {
  let happened = 0;
  let connect = () => {};
  const wires = (isFirst: boolean): [Wire[], Wire[]] => {
    const pairs = Array.from({ length: lanes }, () => createMemoryWires());
    const mine = pairs.map(([wire]) =>
      isFirst ? faulty(wire, { faults, seed, leastBytes, onFault: () => happened++ }) : (wire as Wire),
    );
    return [mine, pairs.map(([, wire]) => wire)];
  };
  const [first, second] = wires(true);
  const a = new LocalEnd({ selfId: "a", peerId: "b", wires: first });
  const b = new LocalEnd({ selfId: "b", peerId: "a", wires: second });
  connect = () => {
    const [one, other] = wires(false);
    a.attachWires(one);
    b.attachWires(other);
  };
  a.link.onWiresLost = () => setTimeout(connect, 5);
  try {
    const [from, to] = await exchange(a, b);
    return { happened, from: from!, to: to! };
  } finally {
    await a.close("done");
    await b.close("done");
  }
}

for (const kind of ["corrupt", "truncate", "repeat", "reorder", "drop", "cut"] as const)
  it(`survives one message that suffers "${kind}", whichever it is`, async () => {
    const runs = Array.from({ length: 36 }, (_, index) => exchangeWith([{ kind, at: index * 2 }], index + 1));
    const seen = await Promise.all(runs);
    expect(seen.filter(({ happened }) => happened > 0).length).toBeGreaterThan(30);
    const { counters } = seen[20]!.to;
    if (kind === "corrupt" || kind === "truncate")
      expect(seen.filter(({ to }) => to.counters.corrupt === 1).length).toBeGreaterThan(30);
    if (kind === "repeat") expect(seen.filter(({ to }) => to.counters.duplicate > 0).length).toBeGreaterThan(10);
    expect(counters.stale).toBe(0);
  });

it("asks again for a chunk with a wrong hash, and only for its segment", async () => {
  // The third long message is a chunk; its payload is damaged, its header is not.
  const pair = createMemoryWires();
  let chunks = 0;
  const damaging = new Proxy(pair[0] as Wire, {
    get(target, property) {
      const value = Reflect.get(target, property, target);
      if (property !== "send") return typeof value === "function" ? value.bind(target) : value;
      return (message: Uint8Array<ArrayBuffer>) => {
        if (message.byteLength > 100_000 && ++chunks === 3) message[message.byteLength - 9]! ^= 4;
        target.send(message);
      };
    },
    set: (target, property, value) => Reflect.set(target, property, value, target),
  });
  const a = new LocalEnd({ selfId: "a", peerId: "b", wires: [damaging] });
  const b = new LocalEnd({ selfId: "b", peerId: "a", wires: [pair[1]] });
  const byteLength = 5 * 2 ** 20;
  const received = b.receive(1, key(1, "block"), byteLength, 1);
  await a.send({ operation: 2, key: key(1, "block"), seed: 1, byteLength });
  expect(await received).toEqual({ ok: true, byteLength, isRight: true });
  const { counters } = await b.status();
  expect(counters).toMatchObject({ corrupt: 1, resent: 1, receivedBytes: byteLength + 2 ** 20 });
  expect((await a.status()).counters.sentBytes).toBe(byteLength + 2 ** 20);
  await a.close("done");
  await b.close("done");
});

it("survives many faults at once, over one lane and several", async () => {
  const fault = fc.record({
    kind: fc.constantFrom<FaultKind>("corrupt", "truncate", "repeat", "reorder", "drop", "cut"),
    at: fc.nat(60),
    every: fc.option(fc.integer({ min: 7, max: 40 }), { nil: undefined }),
  });
  const runs = fc.sample(
    fc.tuple(fc.array(fault, { minLength: 2, maxLength: 6 }), fc.integer(), fc.integer({ min: 1, max: 4 })),
    {
      seed: 310_1889,
      numRuns: 40,
    },
  );
  const seen = await Promise.all(runs.map(([faults, seed, lanes]) => exchangeWith(faults, seed, lanes)));
  expect(seen.reduce((sum, { happened }) => sum + happened, 0)).toBeGreaterThan(200);
});

it("survives lost messages on a slow line without sending everything twice", async () => {
  const pair = createMemoryWires();
  const slow = pair.map((wire) => throttle(wire, { bytesPerSecond: 20e6, latencyMs: 40 }));
  const a = new LocalEnd({
    selfId: "a",
    peerId: "b",
    wires: [faulty(slow[0]!, { faults: [{ kind: "drop", at: 12, every: 9 }] })],
  });
  const b = new LocalEnd({ selfId: "b", peerId: "a", wires: [slow[1]!] });
  const [from] = await exchange(a, b);
  const total = LARGE + 300_007 + 100_000 + (12 * 11 * 1500) / 2;
  expect(from!.counters.sentBytes).toBeGreaterThan(total);
  expect(from!.counters.sentBytes).toBeLessThan(total * 1.5);
  await a.close("done");
  await b.close("done");
});

it("lets any number of small parcels be sent at once: they wait at home, not in the link", async () => {
  const [one, other] = createMemoryWires();
  const a = new LocalEnd({ selfId: "a", peerId: "b", wires: [one] });
  const b = new LocalEnd({ selfId: "b", peerId: "a", wires: [other] });
  const byteLength = 60_000;
  const ops = Array.from({ length: 1500 }, (_, op) => op);
  const sent = ops.map((op) => a.send({ operation: op, key: key(op, "ask"), seed: op % 7, byteLength }));
  const received = ops.map((op) => b.receive(10_000 + op, key(op, "ask"), byteLength, op % 7));
  for (const outcome of await Promise.all([...sent, ...received]))
    expect(outcome).toMatchObject({ ok: true, isRight: true });
  expect((await a.status()).peakHeldBytes).toBeLessThan(4 * 2 ** 20);
  await a.close("done");
  await b.close("done");
});
