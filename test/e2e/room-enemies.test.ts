/**
 * Rooms against those who play foul: a relay whose operator reads, replays, swaps, invents and floods; a guest without the
 * secret; one who was banned; one too many. In real Chrome, over a relay that belongs to the enemy.
 */
import { createServer, type Server } from "node:http";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type WebSocket, WebSocketServer } from "ws";
import { toBase64Url } from "../../src/room/bytes.ts";
import { parseInvitation } from "../../src/room/invitation.ts";
import { deriveRoomKeys } from "../../src/room/keys.ts";
import { type RoomHost, startRooms } from "./room-host.ts";

interface Frame {
  topic: string;
  payload: string;
}

/** A relay that does as its operator likes. */
interface EvilRelay {
  url: string;
  /** Everything that was published. */
  frames: Frame[];
  topics: Set<string>;
  /** What becomes of a published frame; by default it is passed on. */
  twist: (frame: Frame) => readonly Frame[];
  /** Sends a frame to everyone who listens. */
  say(frame: Frame): void;
  close(): void;
}

async function startEvilRelay(): Promise<EvilRelay> {
  const http: Server = createServer();
  const sockets = new WebSocketServer({ server: http });
  const topicsOf = new Map<WebSocket, Set<string>>();
  const relay: EvilRelay = {
    ...{ url: "", frames: [], topics: new Set(), twist: (frame) => [frame] },
    say({ topic, payload }) {
      for (const [socket, topics] of topicsOf) if (topics.has(topic)) socket.send(JSON.stringify({ topic, payload }));
    },
    close() {
      for (const socket of topicsOf.keys()) socket.terminate();
      sockets.close();
      http.close();
    },
  };
  sockets.on("connection", (socket) => {
    topicsOf.set(socket, new Set());
    socket.on("close", () => topicsOf.delete(socket));
    socket.on("message", (data) => {
      const { subscribe, publish, payload } = JSON.parse(String(data));
      if (subscribe) {
        topicsOf.get(socket)!.add(subscribe);
        relay.topics.add(subscribe);
      }
      if (!publish) return;
      relay.frames.push({ topic: publish, payload });
      for (const frame of relay.twist({ topic: publish, payload }))
        for (const [other, topics] of topicsOf)
          if (other !== socket && topics.has(frame.topic)) other.send(JSON.stringify(frame));
    });
  });
  await new Promise<void>((up) => http.listen(0, "127.0.0.1", up));
  relay.url = `ws://127.0.0.1:${(http.address() as { port: number }).port}/relay`;
  return relay;
}

const pause = (milliseconds: number) => new Promise((next) => setTimeout(next, milliseconds));

describe("a relay in the enemy's hands", () => {
  let host: RoomHost;
  let relay: EvilRelay;
  beforeAll(async () => {
    host = await startRooms();
  });
  afterAll(async () => {
    await host?.close();
  });
  beforeEach(async () => {
    relay = await startEvilRelay();
  });
  afterEach(() => relay.close());

  /** Two tabs over WebRTC, in one browser: the relay is what is tested. */
  async function pair() {
    const browser = await host.browser();
    const a = await host.join(browser, { link: "webrtc", signalling: { relayUrl: relay.url } });
    const b = await host.join(browser, { link: "webrtc", invitation: a.invitation });
    return { browser, a, b };
  }

  test("reads everything and learns nothing, and gains nothing by replaying it", async () => {
    relay.twist = (frame) => [frame, frame, ...relay.frames.slice(0, 20)];
    const { browser, a, b } = await pair();
    await Promise.all([a.until("wires", b.selfId), b.until("wires", a.selfId)]);
    expect((await a.echo(b.selfId, "private")).text).toBe("private");
    // All of it again, when the room is long open.
    for (const frame of [...relay.frames]) relay.say(frame);
    await pause(500);
    expect((await a.echo(b.selfId, "still private")).text).toBe("still private");
    for (const guest of [a, b]) expect((await guest.log()).filter(({ what }) => what === "wires")).toHaveLength(1);

    const { secret } = parseInvitation(a.invitation);
    const { password, roomId } = await deriveRoomKeys(secret);
    expect(relay.frames.length).toBeGreaterThan(5);
    const seen = [...relay.topics, ...relay.frames.flatMap(({ topic, payload }) => [topic, payload])].join("\n");
    const secrets = [toBase64Url(secret), password, roomId, a.selfId, b.selfId];
    for (const word of [...secrets, "v=0", "fingerprint", "candidate", "offer", "answer", "peerId", "sdp", "ringwise"])
      expect(seen.includes(word), word).toBe(false);
    await browser.close();
  });

  test("cannot swap descriptions, move them or make any up: nobody gets in, and the room is told", async () => {
    let isHostile = true;
    const [forged, moved] = ["AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", new Map<string, string>()];
    relay.twist = (frame) => {
      if (!isHostile) return [frame];
      // Each topic gets what was meant for another, or what was made up, or what was changed in one place.
      const other = [...moved].find(([topic]) => topic !== frame.topic)?.[1] ?? forged;
      moved.set(frame.topic, frame.payload);
      const at = frame.payload.length - 8;
      const changed =
        frame.payload.slice(0, at) + (frame.payload[at] === "A" ? "B" : "A") + frame.payload.slice(at + 1);
      return [other, forged, changed].map((payload) => ({ topic: frame.topic, payload }));
    };
    const { browser, a, b } = await pair();
    expect((await a.until("refused")).text).toMatch(/without this room's secret.*ignored/);
    await pause(1500);
    for (const guest of [a, b]) {
      const log = await guest.log();
      expect(log.filter(({ what }) => what === "wires")).toEqual([]);
      // Told, but not flooded.
      expect(log.filter(({ what }) => what === "refused")).toHaveLength(1);
      expect(guest.errors).toEqual([]);
    }
    // An honest relay again: the same two meet.
    isHostile = false;
    await Promise.all([a.until("wires", b.selfId), b.until("wires", a.selfId)]);
    expect((await b.echo(a.selfId, "at last")).text).toBe("at last");
    await browser.close();
  });

  test("cannot make pages hold connections for peers that it invents", async () => {
    const browser = await host.browser();
    const a = await host.join(browser, { link: "webrtc", signalling: { relayUrl: relay.url } });
    await a.until("open");
    await pause(300);
    const before = await a.page.evaluate(() => window.page.connections());
    const topics = [...relay.topics];
    for (let i = 0; i < 3000; i++) {
      const peerId = `invented${String(i).padStart(12, "0")}`;
      relay.say({ topic: topics[i % topics.length]!, payload: JSON.stringify({ peerId }) });
    }
    await pause(700);
    expect(await a.page.evaluate(() => window.page.connections())).toBe(before);
    expect(a.errors).toEqual([]);
    await browser.close();
  });

  test("a banned peer is told, loses its connection and does not get in again; nor does one too many", async () => {
    const browser = await host.browser();
    const a = await host.join(browser, { link: "webrtc", signalling: { relayUrl: relay.url }, maxPeers: 1 });
    const b = await host.join(browser, { link: "webrtc", invitation: a.invitation });
    await Promise.all([a.until("wires", b.selfId), b.until("wires", a.selfId)]);
    const c = await host.join(browser, { link: "webrtc", invitation: a.invitation });
    expect((await c.until("refused")).text).toMatch(/The room is full \(2 peers\)/);
    expect((await a.until("refused")).text).toMatch(/The room is full/);
    await c.until("wires", b.selfId);
    expect((await c.log()).some(({ what, peerId }) => what === "wires" && peerId === a.selfId)).toBe(false);

    await a.page.evaluate((peerId) => window.page.room!.ban(peerId), b.selfId);
    expect((await b.until("left", a.selfId)).text).toMatch(/You were removed from this room/);
    await b.page.evaluate((peerId) => window.page.room!.reconnect(peerId), a.selfId);
    await pause(2500);
    for (const [x, y] of [
      [a, b],
      [b, a],
    ] as const)
      expect((await x.log()).filter(({ what, peerId }) => what === "wires" && peerId === y.selfId)).toHaveLength(1);
    expect((await c.echo(b.selfId, "c and b go on")).text).toBe("c and b go on");
    await browser.close();
  });
});
