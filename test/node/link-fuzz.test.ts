/**
 * Mangled frames at a link: 10,000 of them, damaged by chance or made by someone who knows the format. Whatever comes, the
 * link neither throws nor grows; it goes on and delivers, or closes and says what the other end did.
 */
import fc from "fast-check";
import { expect, it } from "vitest";
import { decodeFrame, encodeFrame, FRAME, FrameError, type FrameFields, HEADER_BYTES } from "../../src/link/frame.ts";
import { createLink, type OwnLink } from "../../src/link/link.ts";
import { PARCEL_KINDS } from "../../src/link/parcel-key.ts";
import type { ParcelKey, Wire } from "../../src/link/types.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";

const RUNS = 200;
const FRAMES = 50;
const LARGE = 300_000;
const key: ParcelKey = { epoch: 2, op: 1, layer: 0, kind: "block", rank: 0 };

/** Fields of frames: words near those that the link uses, and any others. */
const word = fc.oneof(
  fc.nat(4),
  fc.constantFrom(16_384, 65_472, LARGE, LARGE + 1, 2 ** 20, 2 ** 31, 0xffffffff),
  fc.nat(0xffffffff),
);
const anyKey = fc.record({
  epoch: fc.oneof(fc.constantFrom(0, 1, 2, 3), word),
  op: fc.oneof(fc.constant(1), word),
  layer: fc.oneof(fc.constant(0), word),
  kind: fc.constantFrom(...PARCEL_KINDS),
  rank: fc.oneof(fc.constant(0), word),
});
const forged = fc.record({
  type: fc.constantFrom(...Object.values(FRAME)),
  code: fc.oneof(fc.nat(2), fc.nat(255)),
  key: fc.oneof(fc.constant(key), anyKey, fc.constant(undefined)),
  transfer: word,
  post: word,
  offset: word,
  totalBytes: word,
  payload: fc.oneof(
    fc.constant(new Uint8Array(0)),
    fc.uint8Array({ maxLength: 40 }),
    fc.constantFrom(16_384, 8, 16, 65_472).map((length) => new Uint8Array(length).fill(123)),
    fc.json({ maxDepth: 1 }).map((json) => new TextEncoder().encode(json)),
  ),
});
const mangling = fc.oneof(
  { weight: 3, arbitrary: fc.record({ how: fc.constant("flip" as const), at: fc.nat(), bit: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ how: fc.constant("cut" as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ how: fc.constant("longer" as const), by: fc.integer({ min: 1, max: 99 }) }) },
  { weight: 2, arbitrary: fc.record({ how: fc.constant("noise" as const), bytes: fc.uint8Array({ maxLength: 200 }) }) },
  { weight: 1, arbitrary: fc.record({ how: fc.constant("repeat" as const) }) },
);
const forging = fc.record({
  how: fc.constant("forge" as const),
  fields: forged,
  sequence: fc.oneof(fc.constant("next" as const), word),
  acknowledged: fc.oneof(fc.constant(1), fc.constant(1), word),
});
type Mangling = typeof mangling extends fc.Arbitrary<infer T> ? T : never;

const signal = new AbortController().signal;
const settled = <T>(promise: Promise<T>) =>
  promise.then(
    (value) => ({ value, error: undefined }),
    (error: Error & { why?: string }) => ({ value: undefined, error }),
  );
const pause = () => new Promise((resolve) => setTimeout(resolve, 0));

/** What a link may hold, whatever it is sent: the one posted parcel, its unclaimed store, its own frames. */
const MOST_HELD = LARGE + 2 * 2 ** 20 + 2 ** 20 + 256 * 1024;

function mangled(message: Uint8Array<ArrayBuffer>, how: Mangling): Uint8Array<ArrayBuffer> {
  const copy = message.slice();
  switch (how.how) {
    case "flip":
      copy[how.at % copy.byteLength]! ^= 1 << how.bit;
      return copy;
    case "cut":
      return copy.slice(0, how.at % copy.byteLength);
    case "longer": {
      // Memory wires take no more than 256 KiB and a header.
      const longer = new Uint8Array(Math.min(copy.byteLength + how.by, HEADER_BYTES + 256 * 1024));
      longer.set(copy);
      return longer;
    }
    case "noise":
      return new Uint8Array(how.bytes);
    case "repeat":
      return copy;
  }
}

/** A victim whose wire also carries what `inject` puts there, beside an honest other end. */
function victimWith(inject: (message: Uint8Array<ArrayBuffer>, wire: Wire) => void) {
  const [mine, theirs] = createMemoryWires();
  const send = mine.send.bind(mine);
  const raw = { send } as Wire;
  mine.send = (message) => {
    const copy = message.slice();
    send(message);
    inject(copy, raw);
  };
  const victim = createLink({ selfId: "victim", peerId: "attacker" });
  const honest = createLink({ selfId: "attacker", peerId: "victim" });
  let mostHeld = 0;
  const watched = new Proxy(theirs as Wire, {
    get(target, property) {
      const value = Reflect.get(target, property, target);
      return typeof value === "function" && !String(property).startsWith("on") ? value.bind(target) : value;
    },
    set: (target, property, value) =>
      Reflect.set(
        target,
        property,
        property === "onMessage" && value
          ? (message: Uint8Array<ArrayBuffer>) => {
              value(message);
              mostHeld = Math.max(mostHeld, victim.heldBytes);
            }
          : value,
        target,
      ),
  });
  let violation: string | undefined;
  victim.onViolation = (reason) => {
    violation = reason;
  };
  return {
    ...{ victim, honest },
    mostHeld: () => mostHeld,
    violation: () => violation,
    start() {
      victim.attach([watched]);
      honest.attach([mine]);
      victim.setEpoch(2);
      honest.setEpoch(2);
    },
  };
}

/** Control messages and parcels of the honest end. */
function traffic(victim: OwnLink, honest: OwnLink) {
  const bytes = Uint8Array.from({ length: LARGE }, (_, index) => (index * 31) ^ (index >> 8));
  const controls: unknown[] = [];
  victim.onControl = (message) => controls.push(message);
  const received = settled(victim.receive(key, LARGE, signal));
  const small = settled(victim.receive({ ...key, op: 2, kind: "ask" }, 5000, signal));
  const sent = [
    settled(honest.send(key, [bytes], LARGE, signal)),
    settled(honest.send({ ...key, op: 2, kind: "ask" }, [bytes.subarray(0, 5000)], 5000, signal)),
  ];
  for (let index = 0; index < 12; index++) honest.sendControl({ type: "m", index });
  const done = Promise.all([received, small, ...sent]);
  return { bytes, controls, received, small, done };
}

it(`goes on after damage: ${(RUNS * FRAMES) / 2} damaged frames between honest ones`, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(mangling, { minLength: FRAMES, maxLength: FRAMES }), async (manglings) => {
      let next = 0;
      const { victim, honest, start, mostHeld, violation } = victimWith((message, wire) => {
        // A few after each message: all are in before the parcel is.
        for (let count = 0; count < 3 && next < manglings.length; count++)
          wire.send(mangled(message, manglings[next++]!));
      });
      const { bytes, controls, received, small, done } = traffic(victim, honest);
      start();
      await done;
      expect(next).toBe(FRAMES);
      expect(violation()).toBeUndefined();
      expect(Buffer.compare((await received).value!.bytes, bytes)).toBe(0);
      expect(Buffer.compare((await small).value!.bytes, bytes.subarray(0, 5000))).toBe(0);
      while (controls.length < 12) await pause();
      expect(controls).toEqual(Array.from({ length: 12 }, (_, index) => ({ type: "m", index })));
      expect(victim.counters.receivedParcels).toBe(2);
      expect(mostHeld()).toBeLessThan(MOST_HELD);
      victim.close("done");
      expect(victim.heldBytes).toBe(0);
      honest.close("done");
    }),
    { numRuns: RUNS / 2, seed: 2310_01889 },
  );
}, 60_000);

it(`neither throws nor grows: ${(RUNS * FRAMES) / 2} forged frames`, async () => {
  const reasons = new Set<string>();
  let survivors = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(forging, { minLength: FRAMES, maxLength: FRAMES }), async (forgeries) => {
      let isInjected = false;
      const { victim, honest, start, mostHeld, violation } = victimWith((message, wire) => {
        const { session, toSession, sequence } = decodeFrame(message);
        if (isInjected || toSession === 0) return;
        isInjected = true;
        let ordered = Math.max(sequence, 1);
        for (const { fields, sequence: as, acknowledged } of forgeries)
          wire.send(
            encodeFrame(fields as FrameFields, {
              ...{ session, toSession, acknowledged },
              sequence: as === "next" ? ordered++ : as,
            }),
          );
      });
      const { done } = traffic(victim, honest);
      start();
      await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 40))]);
      expect(isInjected).toBe(true);
      expect(mostHeld()).toBeLessThan(MOST_HELD);
      expect(victim.isClosed || violation() === undefined).toBe(true);
      if (violation() !== undefined) {
        expect(violation()).toMatch(/^attacker \w+/);
        reasons.add(violation()!.replace(/\d+/g, "#"));
      } else survivors++;
      victim.close("done");
      expect(victim.heldBytes).toBe(0);
      honest.close("done");
      await done;
    }),
    { numRuns: RUNS / 2, seed: 2310_01889 },
  );
  // The forgeries have to reach far: many different rules must have been broken.
  expect(reasons.size).toBeGreaterThan(15);
  expect(survivors).toBeLessThan(RUNS / 2);
}, 60_000);

it("reads back every frame that it writes, and no other", () => {
  let read = 0;
  fc.assert(
    fc.property(forged, word, word, fc.nat(), fc.nat(7), (fields, sequence, acknowledged, at, bit) => {
      const message = encodeFrame(fields as FrameFields, { session: 7, toSession: 8, sequence, acknowledged });
      expect(message.byteLength).toBe(HEADER_BYTES + fields.payload.byteLength);
      try {
        const frame = decodeFrame(message);
        const { type, code, transfer, post, offset, totalBytes } = frame;
        expect({ type, code, transfer, post, offset, totalBytes }).toEqual({
          ...{ type: fields.type, code: fields.code, transfer: fields.transfer, post: fields.post },
          ...{ offset: fields.offset, totalBytes: fields.totalBytes },
        });
        expect(frame.key).toEqual(fields.key);
        expect(frame.payload).toEqual(new Uint8Array(fields.payload));
        read++;
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        expect(error.isDamage).toBe(false);
      }
      const index = at % (fields.type === FRAME.chunk ? HEADER_BYTES : message.byteLength);
      message[index]! ^= 1 << bit;
      expect(() => decodeFrame(message)).toThrow(FrameError);
    }),
    { numRuns: 3000, seed: 2310_01889 },
  );
  expect(read).toBeGreaterThan(300);
});
