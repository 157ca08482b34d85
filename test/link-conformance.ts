/** What every link must do, whatever its wires: one suite, run over each kind in Node and in the browser. */
import { afterEach, describe, expect, it } from "vitest";
import type { ParcelKey } from "../src/link/types.ts";
import type { End, EndStatus, Outcome } from "./link-end.ts";

/** Two ends of a link, and what may happen to the wires between them. */
export interface Connection {
  a: End;
  b: End;
  /** The wires break, without a goodbye. */
  cut(): Promise<void>;
  /** New wires for both ends, while the former may be alive or cut. */
  replace(): Promise<void>;
  /** Gives back what the wires came from. */
  dispose(): void;
}

/** What is known of a kind of wires. */
export interface ConformanceOptions {
  /** Bytes that may wait in one wire, with one more message. */
  mostBufferedBytes: number;
  kind: string;
  /** The platform does not say that a wire broke: silence alone tells. */
  isCutSilent?: boolean;
  /** Bytes of the parcels that something happens to midway. Default 3 MiB and something. */
  largeBytes?: number;
}

/** Polls until it holds; a failure shows what was seen last. */
export async function until<T>(look: () => Promise<T> | T, holds: (seen: T) => boolean, what: string): Promise<T> {
  const endMs = performance.now() + 20_000;
  for (;;) {
    const seen = await look();
    if (holds(seen)) return seen;
    if (performance.now() > endMs) throw new Error(`waited 20 s for ${what}; last seen: ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const ok = (byteLength: number): Outcome => ({ ok: true, byteLength, isRight: true });
const failed = (outcome: Outcome) => (outcome.ok ? undefined : outcome.failure);
const NOTHING_LOST = { stale: 0, duplicate: 0, unexpected: 0, corrupt: 0, resent: 0 };

/** Declares the suite for one kind of wires. */
export function linkConformance(
  name: string,
  connect: () => Promise<Connection>,
  { mostBufferedBytes, kind, isCutSilent = false, largeBytes = 3 * 2 ** 20 + 4711 }: ConformanceOptions,
): void {
  describe(`link over ${name}`, () => {
    let connection: Connection | undefined;
    let operation = 0;
    const open = async () => {
      connection = await connect();
      return connection;
    };
    afterEach(async () => {
      if (!connection) return;
      await connection.a.close("the test is over");
      await connection.b.close("the test is over");
      connection.dispose();
      connection = undefined;
    });
    const key = (op: number, more: Partial<ParcelKey> = {}): ParcelKey => ({
      ...{ epoch: 0, op, layer: 3, kind: "block", rank: 1 },
      ...more,
    });
    const held = async (end: End, bytes: number) =>
      until(
        () => end.status(),
        (status) => status.heldBytes === bytes,
        `heldBytes of ${bytes}`,
      );
    const begun = (end: End) =>
      until(
        () => end.status(),
        ({ counters, heldBytes }) => counters.receivedBytes > 0 && heldBytes >= largeBytes,
        "a parcel to begin",
      );

    it("brings parcels of every length, whole, both ways at once, asked for before or after they are sent", async () => {
      const { a, b } = await open();
      const lengths = [0, 1, 1000, 65_471, 65_472, 65_473, 65_536, 65_537, 2 ** 20, 2 ** 20 + 1, largeBytes];
      const outcomes = await Promise.all(
        lengths.flatMap((byteLength, op) =>
          [
            [a, b],
            [b, a],
          ].flatMap(([from, to], way) => {
            const seed = op * 2 + way;
            const send = () => from!.send({ operation: ++operation, key: key(op), seed, byteLength });
            const receive = () => to!.receive(++operation, key(op), byteLength + way, seed);
            return op % 2 === way ? [send(), receive()] : [receive(), send()];
          }),
        ),
      );
      expect(outcomes).toEqual(lengths.flatMap((byteLength) => [1, 2, 3, 4].map(() => ok(byteLength))));
      const total = lengths.reduce((sum, length) => sum + length, 0);
      for (const end of [a, b]) {
        const { counters, kind: seen, roundTripMs } = await held(end, 0);
        const count = lengths.length;
        const moved = { sentBytes: total, receivedBytes: total, sentParcels: count, receivedParcels: count };
        expect(counters).toEqual({ ...NOTHING_LOST, ...moved });
        expect(seen).toBe(kind);
        expect(roundTripMs).toBeGreaterThan(0);
      }
    });

    it("brings control messages in order, each once, long ones too, while parcels travel", async () => {
      const { a, b } = await open();
      const longest = 2 ** 20 - '{"type":"long","text":""}'.length;
      const messages = Array.from({ length: 300 }, (_, index) => ({ type: "count", index, text: "é".repeat(index) }));
      const all = [...messages, { type: "long", text: "x".repeat(longest) }, { type: "last" }];
      const receiving = b.receive(++operation, key(1), largeBytes, 7);
      const sending = a.send({ operation: ++operation, key: key(1), seed: 7, byteLength: largeBytes });
      expect(await a.sendControl(all)).toBeUndefined();
      await b.sendControl(messages);
      await until(
        () => b.status(),
        ({ controls }) => controls.length >= all.length,
        "the last message",
      );
      expect((await b.status()).controls).toEqual(all);
      await until(
        () => a.status(),
        ({ controls }) => controls.length >= messages.length,
        "the answers",
      );
      expect((await a.status()).controls).toEqual(messages);
      expect(await Promise.all([sending, receiving])).toEqual([ok(largeBytes), ok(largeBytes)]);
      const tooLong = await a.sendControl([{ type: "long", text: "x".repeat(longest + 1) }]);
      expect(tooLong?.message).toBe('sendControl: expected at most 1048576 bytes of JSON, got 1048577 ("long")');
      expect((await a.status()).isClosed).toBe(false);
    });

    it("sends parts as they come, and nothing of a parcel whose part fails", async () => {
      const { a, b } = await open();
      const half = Math.floor(largeBytes / 2);
      const parts = [100, half, -(largeBytes - half - 100)];
      const receiving = b.receive(++operation, key(1), largeBytes, 1);
      const first = ++operation;
      const failing = a.send({ operation: first, key: key(1), seed: 1, byteLength: largeBytes, parts });
      await begun(b);
      await a.provide(first, true);
      expect(failed(await failing)?.message).toBe("this part failed");
      await held(b, 0);
      const second = ++operation;
      const sending = a.send({ operation: second, key: key(1), seed: 1, byteLength: largeBytes, parts });
      await begun(b);
      await a.provide(second);
      expect(await Promise.all([sending, receiving])).toEqual([ok(largeBytes), ok(largeBytes)]);
      const wrong = await a.send({ operation: ++operation, key: key(2), seed: 1, byteLength: 10, parts: [4, 5] });
      expect(wrong.ok).toBe(false);
    });

    it("sends nothing of a large parcel before it is asked for, and never more than the wires and two buffers hold", async () => {
      const { a, b } = await open();
      const count = 5;
      const sending = Array.from({ length: count }, (_, op) =>
        a.send({ operation: ++operation, key: key(op), seed: op, byteLength: largeBytes }),
      );
      await a.sendControl([{ type: "sent" }]);
      await until(
        () => b.status(),
        ({ controls }) => controls.length === 1,
        "a message",
      );
      expect((await a.status()).counters.sentBytes).toBe(0);
      // Asked for from the last to the first.
      const receiving = Array.from({ length: count }, (_, op) =>
        b.receive(++operation, key(count - 1 - op), largeBytes, count - 1 - op),
      );
      expect(await Promise.all([...sending, ...receiving])).toEqual(new Array(count * 2).fill(ok(largeBytes)));
      const [from, to] = [await a.status(), await b.status()];
      expect(from.peakBufferedBytes).toBeLessThanOrEqual(mostBufferedBytes);
      expect(to.peakHeldBytes).toBeGreaterThanOrEqual(largeBytes);
      expect(to.peakHeldBytes).toBeLessThan(2 * largeBytes + 2 ** 16);
      expect(to.bytesPerSecond).toBeGreaterThan(0);
      expect({ ...from.counters, ...NOTHING_LOST }).toEqual(from.counters);
    });

    it("stays usable when a sender gives up: before, midway, and with a small parcel", async () => {
      const { a, b } = await open();
      const parts = [largeBytes - 5, -5];
      const before = ++operation;
      const never = a.send({ operation: before, key: key(9), seed: 1, byteLength: largeBytes });
      await a.abort(before);
      expect(failed(await never)).toMatchObject({ name: "AbortError", message: "stopped by the test" });

      const receiving = b.receive(++operation, key(1), largeBytes, 1);
      const midway = ++operation;
      const stopped = a.send({ operation: midway, key: key(1), seed: 1, byteLength: largeBytes, parts });
      await begun(b);
      await a.abort(midway);
      expect(failed(await stopped)?.name).toBe("AbortError");
      await held(b, 0);
      const again = a.send({ operation: ++operation, key: key(1), seed: 1, byteLength: largeBytes });
      expect(await Promise.all([again, receiving])).toEqual([ok(largeBytes), ok(largeBytes)]);

      const small = ++operation;
      const stoppedSmall = a.send({ operation: small, key: key(2), seed: 1, byteLength: 99, parts: [-99] });
      await a.abort(small);
      expect(failed(await stoppedSmall)?.name).toBe("AbortError");
      const smallAgain = a.send({ operation: ++operation, key: key(2), seed: 2, byteLength: 99 });
      expect(await smallAgain).toEqual(ok(99));
      expect(await b.receive(++operation, key(2), 99, 2)).toEqual(ok(99));
    });

    it("stays usable when a receiver gives up: before, midway, and asks again", async () => {
      const { a, b } = await open();
      const before = ++operation;
      const never = b.receive(before, key(1), largeBytes, 1);
      await b.abort(before);
      expect(failed(await never)).toMatchObject({ name: "AbortError", message: "stopped by the test" });

      const midway = ++operation;
      const stopped = b.receive(midway, key(1), largeBytes, 1);
      const sender = ++operation;
      const parts = [largeBytes - 5, -5];
      const sending = a.send({ operation: sender, key: key(1), seed: 1, byteLength: largeBytes, parts });
      await begun(b);
      await b.abort(midway);
      expect(failed(await stopped)?.name).toBe("AbortError");
      expect((await b.status()).heldBytes).toBeLessThan(1000);
      await a.provide(sender);
      const receiving = b.receive(++operation, key(1), largeBytes, 1);
      expect(await Promise.all([sending, receiving])).toEqual([ok(largeBytes), ok(largeBytes)]);
      for (const end of [a, b]) expect((await held(end, 0)).isClosed).toBe(false);
    });

    it("ends with the epoch what belongs to it, holds small parcels of the next, and drops what is late", async () => {
      const { a, b } = await open();
      await Promise.all([a.setEpoch(1), b.setEpoch(1)]);
      const receiving = b.receive(++operation, key(1, { epoch: 1 }), largeBytes, 1);
      const parts = [largeBytes - 5, -5];
      const old = { operation: ++operation, key: key(1, { epoch: 1 }), seed: 1, byteLength: largeBytes, parts };
      const sending = a.send(old);
      const weights = b.receive(++operation, key(5, { kind: "weights" }), 2 ** 20, 5);
      await begun(b);

      await a.setEpoch(2);
      expect(failed(await sending)).toMatchObject({ name: "LinkError", why: "epoch" });
      // a is ahead: what it sends is of b's future.
      const early = a.send({ operation: ++operation, key: key(2, { epoch: 2 }), seed: 2, byteLength: 5000 });
      expect(await early).toEqual(ok(5000));
      const large = a.send({ operation: ++operation, key: key(3, { epoch: 2 }), seed: 3, byteLength: largeBytes });
      // b is behind: what it sends is late.
      const late = await b.send({ operation: ++operation, key: key(4, { epoch: 1 }), seed: 4, byteLength: 100 });
      expect(failed(late)).toMatchObject({ name: "LinkError", why: "epoch" });
      expect((await a.status()).counters.stale).toBe(1);

      await b.setEpoch(2);
      expect(failed(await receiving)).toMatchObject({ name: "LinkError", why: "epoch" });
      expect(await b.receive(++operation, key(2, { epoch: 2 }), 5000, 2)).toEqual(ok(5000));
      expect(await b.receive(++operation, key(3, { epoch: 2 }), largeBytes, 3)).toEqual(ok(largeBytes));
      expect(await large).toEqual(ok(largeBytes));
      const pastEnd = await b.receive(++operation, key(1, { epoch: 1 }), 10, 1);
      expect(failed(pastEnd)?.why).toBe("epoch");
      // Weights belong to no epoch.
      const piece = { operation: ++operation, key: key(5, { kind: "weights" }), seed: 5, byteLength: 2 ** 20 };
      expect(await Promise.all([a.send(piece), weights])).toEqual([ok(2 ** 20), ok(2 ** 20)]);
    });

    it("goes on over new wires: parcels midway, credits and messages, each once", async () => {
      const { a, b, cut, replace } = await open();
      const count = 4;
      const parts = [largeBytes - 5, -5];
      const senders = Array.from({ length: count }, () => ++operation);
      const sending = senders.map((sender, op) =>
        a.send({ operation: sender, key: key(op), seed: op, byteLength: largeBytes, parts }),
      );
      const receiving = [0, 1, 2].map((op) => b.receive(++operation, key(op), largeBytes, op));
      await begun(b);
      await a.sendControl([{ type: "before" }]);
      await cut();
      await until(
        () => Promise.all([a.status(), b.status()]),
        (ends) =>
          ends.every(({ hasWires, wiresLost, heardAgoMs }) =>
            isCutSilent ? heardAgoMs > 500 : !hasWires && wiresLost === 1,
          ),
        "both ends to notice",
      );
      await a.sendControl([{ type: "meanwhile" }]);
      await b.sendControl([{ type: "meanwhile" }]);
      receiving.push(b.receive(++operation, key(3), largeBytes, 3));
      for (const sender of senders) await a.provide(sender);
      const small = a.send({ operation: ++operation, key: key(8), seed: 8, byteLength: 800 });
      await replace();
      expect(await Promise.all([...sending, ...receiving])).toEqual(new Array(count * 2).fill(ok(largeBytes)));
      expect(await Promise.all([small, b.receive(++operation, key(8), 800, 8)])).toEqual([ok(800), ok(800)]);
      expect((await b.status()).controls).toEqual([{ type: "before" }, { type: "meanwhile" }]);
      expect((await a.status()).controls).toEqual([{ type: "meanwhile" }]);
      expect((await b.status()).counters.receivedParcels).toBe(count + 1);
    });

    it("takes new wires in the middle of everything, again and again", async () => {
      const { a, b, replace } = await open();
      const count = 6;
      const sending = Array.from({ length: count }, (_, op) =>
        a.send({ operation: ++operation, key: key(op), seed: op, byteLength: largeBytes }),
      );
      const receiving = Array.from({ length: count }, (_, op) => b.receive(++operation, key(op), largeBytes, op));
      for (let round = 0; round < 4; round++) {
        await a.sendControl([{ type: "round", round }]);
        await replace();
        await b.sendControl([{ type: "round", round }]);
        await until(
          () => b.status(),
          ({ controls }) => controls.length === round + 1,
          "the round's message",
        );
      }
      expect(await Promise.all([...sending, ...receiving])).toEqual(new Array(count * 2).fill(ok(largeBytes)));
      const rounds = [0, 1, 2, 3].map((round) => ({ type: "round", round }));
      const [from, to] = await Promise.all([a, b].map((end) => held(end, 0)));
      expect(to!.controls).toEqual(rounds);
      expect(from!.controls).toEqual(rounds);
      expect(to!.counters.receivedParcels).toBe(count);
      expect(from!.counters.sentParcels).toBe(count);
    });

    it("fails what waits when the other end closes, with its reason", async () => {
      const { a, b } = await open();
      const waiting = [
        a.send({ operation: ++operation, key: key(1), seed: 1, byteLength: largeBytes }),
        a.receive(++operation, key(2), largeBytes, 1),
        b.receive(++operation, key(3), largeBytes, 1),
      ];
      await a.sendControl([{ type: "last words" }]);
      await a.close("Anna leaves");
      const closed: EndStatus = await until(
        () => b.status(),
        ({ isClosed }) => isClosed,
        "the goodbye",
      );
      expect(closed.closeReason).toBe("Anna leaves");
      expect(closed.controls).toEqual([{ type: "last words" }]);
      for (const outcome of await Promise.all(waiting))
        expect(failed(outcome)).toMatchObject({ name: "LinkError", why: "closed" });
      const late = await b.send({ operation: ++operation, key: key(4), seed: 1, byteLength: 1 });
      expect(failed(late)?.message).toBe("send: the link between b and a is closed");
      expect((await b.sendControl([{ type: "late" }]))?.why).toBe("closed");
    });

    it("refuses to send more than is awaited", async () => {
      const { a, b } = await open();
      const waiting = ++operation;
      const receiving = b.receive(waiting, key(1), largeBytes - 1, 1);
      const sent = await a.send({ operation: ++operation, key: key(1), seed: 1, byteLength: largeBytes });
      expect(failed(sent)).toMatchObject({ name: "LinkError", why: "violation" });
      await b.abort(waiting);
      await receiving;
      // A small one comes unasked, so it is the receiver who sees it.
      const small = b.receive(++operation, key(2), 10, 1);
      await a.send({ operation: ++operation, key: key(2), seed: 1, byteLength: 11 });
      expect(failed(await small)).toMatchObject({ name: "LinkError", why: "violation" });
      const { isClosed, violation } = await b.status();
      expect(isClosed).toBe(true);
      expect(violation).toBe("a sent block epoch 0 op 2 layer 3 rank 1 with 11 bytes, expected at most 10");
    });

    it("holds some small parcels until they are asked for, and lets the others wait at their sender", async () => {
      const { a, b } = await open();
      const count = 200;
      const byteLength = 40_000;
      const sending = Array.from({ length: count }, (_, op) =>
        a.send({ operation: ++operation, key: key(op), seed: op, byteLength }),
      );
      await until(
        () => b.status(),
        ({ counters }) => counters.receivedBytes >= count * byteLength,
        "all to come once",
      );
      expect((await b.status()).heldBytes).toBeLessThanOrEqual(2 * 2 ** 20 + 64 * count);
      const receiving = Array.from({ length: count }, (_, op) =>
        b.receive(++operation, key(count - 1 - op), byteLength, count - 1 - op),
      );
      expect(await Promise.all([...sending, ...receiving])).toEqual(new Array(count * 2).fill(ok(byteLength)));
      expect((await held(b, 0)).counters.receivedParcels).toBe(count);
    });

    it("hears the other end while nothing is sent", async () => {
      const { a, b } = await open();
      for (const end of [a, b]) {
        const first = await end.status();
        await until(
          () => end.status(),
          ({ roundTripMs }) => roundTripMs !== undefined && roundTripMs !== first.roundTripMs,
          "heartbeats",
        );
        expect((await end.status()).heardAgoMs).toBeLessThan(1000);
      }
    });
  });
}
