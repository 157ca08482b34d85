/** Who gets in: invitations, the keys that come from them, and the proof of the secret, against those who play foul. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RoomError } from "../../src/errors.ts";
import { fromBase64Url, toBase64Url } from "../../src/room/bytes.ts";
import { createGate } from "../../src/room/gate.ts";
import { createInvitation, hasInvitation, parseInvitation } from "../../src/room/invitation.ts";
import { deriveRoomKeys, seal, unseal } from "../../src/room/keys.ts";
import { readLaneMessage } from "../../src/room/lanes.ts";
import { fingerprintOf, type ProofChannel, type ProofSide, proveSecret } from "../../src/room/proof.ts";

const PAGE = "http://localhost:8080/demo/?x=1";
const secretOf = (byte: number) => new Uint8Array(16).fill(byte);

describe("invitations", () => {
  it("hold 128 random bits and the relay in the fragment, and come back as they went out", () => {
    const invitation = createInvitation(`${PAGE}#old`, "wss://relay.example/relay?a=1&b=2");
    expect(invitation).toMatch(/^http:\/\/localhost:8080\/demo\/\?x=1#join=[\w-]{22}\.[\w-]{4}&relay=wss%3A/);
    const read = parseInvitation(invitation);
    expect(read).toMatchObject({ pageUrl: PAGE, relayUrl: "wss://relay.example/relay?a=1&b=2" });
    expect(read.secret.byteLength).toBe(16);
    expect(hasInvitation(invitation)).toBe(true);
    expect(hasInvitation(PAGE)).toBe(false);
    const secrets = new Set(Array.from({ length: 200 }, () => createInvitation(PAGE)));
    expect(secrets.size).toBe(200);
    expect(parseInvitation(createInvitation(PAGE))).not.toHaveProperty("relayUrl");
  });

  it("say in a sentence what is wrong with them", () => {
    const good = createInvitation("https://ring.example/");
    const at = good.indexOf("=") + 1;
    const changed = good.slice(0, at) + (good[at] === "A" ? "B" : "A") + good.slice(at + 1);
    for (const broken of [good.slice(0, -1), good.slice(0, at + 10), changed, `${good}x`])
      expect(() => parseInvitation(broken), broken).toThrow(/damaged.*Copy it again, whole/);
    for (const none of ["", "https://ring.example/", "hello", `https://ring.example/#${"x".repeat(9000)}`])
      expect(() => parseInvitation(none), none.slice(0, 40)).toThrow(/not an invitation/);
    expect(() => parseInvitation(good.replace("https", "ftp"))).toThrow(RoomError);
    expect(() => parseInvitation(`${good}&relay=http%3A%2F%2Fx`)).toThrow(/no ws:\/\/ or wss:\/\/ address/);
    expect(() => createInvitation("about:blank")).toThrow(RoomError);
  });

  it("never throw anything but RoomError, whatever the text", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.webUrl({ withFragments: true }),
          fc.string().map((s) => `http://a/#join=${s}`),
        ),
        (text) => {
          try {
            parseInvitation(text);
          } catch (error) {
            expect(error).toBeInstanceOf(RoomError);
          }
        },
      ),
    );
  });
});

describe("base64url", () => {
  it("round-trips bytes and refuses other lengths and alphabets", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(fromBase64Url(toBase64Url(bytes), bytes.length)).toEqual(new Uint8Array(bytes));
        expect(fromBase64Url(`${toBase64Url(bytes)}AAAA`, bytes.length)).toBeUndefined();
      }),
    );
    expect(fromBase64Url("a+/=", 3)).toBeUndefined();
  });
});

describe("the room's keys", () => {
  it("come from the secret alone, differ by purpose, and do not give it away", async () => {
    const [a, again, b] = await Promise.all([1, 1, 2].map((byte) => deriveRoomKeys(secretOf(byte))));
    expect(a!.roomId).toBe(again!.roomId);
    expect(a!.password).toBe(again!.password);
    expect(a!.roomId).not.toBe(b!.roomId);
    expect(a!.password).not.toContain(a!.roomId);
    expect([a!.sealKey.extractable, a!.proofKey.extractable]).toEqual([false, false]);
  });

  it("seal messages so that others can neither read, change, move nor make them", async () => {
    const [ours, theirs] = await Promise.all([deriveRoomKeys(secretOf(1)), deriveRoomKeys(secretOf(2))]);
    const text = JSON.stringify({ peerId: "abc", offer: "v=0" });
    const sealed = await seal(ours!.sealKey, "topic", text);
    expect(sealed).not.toContain("abc");
    expect(await unseal(ours!.sealKey, "topic", sealed)).toBe(text);
    expect(await seal(ours!.sealKey, "topic", text)).not.toBe(sealed);
    expect(await unseal(theirs!.sealKey, "topic", sealed)).toBeUndefined();
    expect(await unseal(ours!.sealKey, "another topic", sealed)).toBeUndefined();
    for (const other of [`${sealed}A`, sealed.slice(1), "", ".", "x.y", 7, null, { a: 1 }, "A".repeat(100_000)])
      expect(await unseal(ours!.sealKey, "topic", other)).toBeUndefined();
    const last = sealed.at(-10) === "A" ? "B" : "A";
    expect(await unseal(ours!.sealKey, "topic", sealed.slice(0, -10) + last + sealed.slice(-9))).toBeUndefined();
  });
});

/** Two ends of a line; `tamper` sees and may change what A sends, and what B sends. */
function line(tamper: (message: object, from: "a" | "b") => object | undefined = (message) => message) {
  const inboxes = { a: [] as unknown[], b: [] as unknown[] };
  const waiting: { a?: (m: unknown) => void; b?: (m: unknown) => void } = {};
  const end = (self: "a" | "b", other: "a" | "b"): ProofChannel => ({
    send(message) {
      const changed = tamper(structuredClone(message), self);
      if (!changed) return;
      const take = waiting[other];
      waiting[other] = undefined;
      if (take) take(changed);
      else inboxes[other].push(changed);
    },
    receive: () =>
      new Promise((resolve, reject) => {
        if (inboxes[self].length > 0) return resolve(inboxes[self].shift());
        waiting[self] = resolve;
        setTimeout(() => reject(new RoomError("timeout")), 150);
      }),
  });
  return { a: end("a", "b"), b: end("b", "a") };
}

const A: ProofSide = { selfId: "alice", peerId: "bob", selfBinding: "AA:AA", peerBinding: "BB:BB" };
const B: ProofSide = { selfId: "bob", peerId: "alice", selfBinding: "BB:BB", peerBinding: "AA:AA" };

/** How both ends fare: "ok" or the error's message. */
async function outcome(
  channels: { a: ProofChannel; b: ProofChannel },
  { a = A, b = B, secretA = 1, secretB = 1 }: { a?: ProofSide; b?: ProofSide; secretA?: number; secretB?: number } = {},
): Promise<string[]> {
  const [keysA, keysB] = await Promise.all([deriveRoomKeys(secretOf(secretA)), deriveRoomKeys(secretOf(secretB))]);
  const results = await Promise.allSettled([
    proveSecret(keysA.proofKey, a, channels.a),
    proveSecret(keysB.proofKey, b, channels.b),
  ]);
  return results.map((result) => (result.status === "fulfilled" ? "ok" : (result.reason as Error).message));
}

describe("the proof of the secret", () => {
  it("lets in those who hold it, whoever has the smaller id", async () => {
    expect(await outcome(line())).toEqual(["ok", "ok"]);
    expect(await outcome(line(), { a: B, b: A })).toEqual(["ok", "ok"]);
  });

  it("turns away a wrong secret, and tells both", async () => {
    const [a, b] = await outcome(line(), { secretB: 2 });
    for (const message of [a, b]) expect(message).toMatch(/proof of the secret failed|The other side said no/);
  });

  it("turns away one who sits in the middle with connections of its own", async () => {
    // Each end is connected to M, who passes everything on: the fingerprints that the ends see are M's.
    const a = { ...A, peerBinding: "MM:1A" };
    const b = { ...B, peerBinding: "MM:1B" };
    for (const message of await outcome(line(), { a, b })) expect(message).not.toBe("ok");
    // Only one leg is M's.
    for (const message of await outcome(line(), { a: { ...A, peerBinding: "MM:1A" } })) expect(message).not.toBe("ok");
  });

  it("turns away one who claims another's id", async () => {
    for (const message of await outcome(line(), { b: { ...B, selfId: "carol" } })) expect(message).not.toBe("ok");
    expect((await outcome(line(), { a: { ...A, peerId: "alice" } }))[0]).toMatch(/own id/);
  });

  it("turns away what is reflected or replayed", async () => {
    const keys = await deriveRoomKeys(secretOf(1));
    // An echo: everything that is sent comes back.
    const inbox: unknown[] = [];
    const echo: ProofChannel = {
      send: (message) => void inbox.push(message),
      receive: async () => inbox.shift(),
    };
    await expect(proveSecret(keys.proofKey, A, echo)).rejects.toThrow(/proof of the secret failed/);
    // A whole earlier conversation with the real B, replayed to A.
    const recorded: object[] = [];
    await outcome(
      line((message, from) => {
        if (from === "b") recorded.push(message);
        return message;
      }),
    );
    expect(recorded).toHaveLength(3);
    const replay: ProofChannel = { send: () => {}, receive: async () => recorded.shift() };
    await expect(proveSecret(keys.proofKey, A, replay)).rejects.toThrow(/proof of the secret failed/);
  });

  it("turns away proofs that were changed, shortened or left out", async () => {
    const change = (key: string, make: (text: string) => unknown) =>
      line((message, from) => {
        const fields = message as Record<string, unknown>;
        return from === "b" && key in fields ? { ...fields, [key]: make(String(fields[key])) } : message;
      });
    const makers: ((text: string) => unknown)[] = [
      (text) => (text.startsWith("A") ? "B" : "A") + text.slice(1),
      (text) => text.slice(1),
      () => "",
      () => 7,
      () => null,
    ];
    for (const make of makers)
      for (const key of ["mac", "nonce"]) expect((await outcome(change(key, make)))[0], key).not.toBe("ok");
    const silent = line((message, from) => (from === "b" ? undefined : message));
    expect(await outcome(silent)).toEqual(["timeout", "timeout"]);
  });
});

describe("fingerprints", () => {
  const print = Array.from({ length: 32 }, (_, i) => i.toString(16).padStart(2, "0")).join(":");
  it("are the description's one and only", () => {
    const line = `a=fingerprint:sha-256 ${print}`;
    expect(fingerprintOf(`v=0\r\n${line}\r\nm=application\r\n${line}\r\n`)).toBe(print.toUpperCase());
    expect(() => fingerprintOf("v=0\r\n")).toThrow(/got 0/);
    expect(() => fingerprintOf(undefined)).toThrow(/got 0/);
    expect(() => fingerprintOf(`${line}\r\n${line.replace("00", "ff")}\r\n`)).toThrow(/got 2/);
  });
});

describe("messages about lanes", () => {
  it("are checked to the field, and nothing else comes through", () => {
    expect(readLaneMessage({ type: "offer", attempt: 1, sdps: ["v=0"], extra: 1 })).toEqual({
      type: "offer",
      attempt: 1,
      sdps: ["v=0"],
    });
    const candidate = { candidate: "candidate:1", sdpMid: "0", evil: {} };
    expect(readLaneMessage({ type: "candidate", attempt: 2, lane: 0, candidate })).toEqual({
      ...{ type: "candidate", attempt: 2, lane: 0 },
      candidate: { candidate: "candidate:1", sdpMid: "0" },
    });
    const wrong = [
      { type: "offer", attempt: 0, sdps: ["v=0"] },
      { type: "offer", attempt: 1, sdps: [] },
      { type: "offer", attempt: 1, sdps: Array(9).fill("v=0") },
      { type: "offer", attempt: 1, sdps: ["x".repeat(20_000)] },
      { type: "answer", attempt: 1.5, sdps: ["v=0"] },
      { type: "candidate", attempt: 1, lane: 8, candidate },
      { type: "candidate", attempt: 1, lane: 0, candidate: "text" },
      { type: "constructor", attempt: 1 },
    ];
    for (const message of wrong)
      expect(() => readLaneMessage(message), JSON.stringify(message).slice(0, 80)).toThrow(RoomError);
    fc.assert(
      fc.property(fc.object(), (message) => {
        try {
          readLaneMessage(message as Record<string, unknown>);
        } catch (error) {
          expect(error).toBeInstanceOf(RoomError);
        }
      }),
    );
  });
});

describe("the gate", () => {
  const id = (n: number) => `peer${String(n).padStart(16, "0")}`;
  it("lets known ids speak, and holds back a flood of new ones", () => {
    let nowMs = 0;
    const gate = createGate(() => nowMs);
    for (const broken of ["", "short", 7, undefined, `${id(1)}x`, "../../../../etc/passw"])
      expect(gate.lets(broken)).toBe(false);
    const let1 = Array.from({ length: 5000 }, (_, n) => gate.lets(id(n))).filter(Boolean).length;
    expect(let1).toBe(80);
    expect(gate.lets(id(3))).toBe(true);
    nowMs = 10_000;
    const let2 = Array.from({ length: 5000 }, (_, n) => gate.lets(id(10_000 + n))).filter(Boolean).length;
    expect(let2).toBe(40);
  });
  it("keeps out the banned for good, the refused for a while, and those who are reached elsewhere", () => {
    let nowMs = 0;
    const gate = createGate(() => nowMs);
    gate.ban(id(1));
    gate.refuse(id(2));
    gate.setElsewhere(id(3), true);
    expect([1, 2, 3, 4].map((n) => gate.lets(id(n)))).toEqual([false, false, false, true]);
    nowMs = 3_600_000;
    gate.setElsewhere(id(3), false);
    expect([1, 2, 3].map((n) => gate.lets(id(n)))).toEqual([false, true, true]);
    expect(gate.isBanned(id(1))).toBe(true);
  });
});
