/** Rooms in real Chrome: tabs, browsers and a Node peer find each other, talk, are cut off, come back, and leave no trace. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { installNodeWebRtc } from "../../src/cli/node-webrtc.ts";
import { joinRoom } from "../../src/room/join-room.ts";
import { type RoomGuest, type RoomHost, startRooms } from "./room-host.ts";

let host: RoomHost;
beforeAll(async () => {
  host = await startRooms();
});
afterAll(async () => {
  await host?.close();
});

/** All pairs have met, and what one says comes back from the other. */
async function expectLinked(guests: readonly RoomGuest[], kind: (a: RoomGuest, b: RoomGuest) => string): Promise<void> {
  for (const a of guests)
    for (const b of guests) {
      if (a === b) continue;
      expect((await a.until("wires", b.selfId)).text).toBe(kind(a, b));
      expect((await a.echo(b.selfId, `${a.selfId} to ${b.selfId}`)).text).toBe(`${a.selfId} to ${b.selfId}`);
    }
  for (const guest of guests) {
    expect(guest.errors).toEqual([]);
    expect(await guest.page.evaluate(() => window.page.violations)).toEqual([]);
  }
}

async function until(isTrue: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadlineMs = performance.now() + 20_000;
  while (!(await isTrue())) {
    if (performance.now() > deadlineMs) throw new Error(`until: ${what}`);
    await new Promise((next) => setTimeout(next, 20));
  }
}

const closePages = async (...guests: RoomGuest[]) => {
  for (const { page } of guests) await page.close();
};

describe("tabs, browsers and Node", () => {
  test("each pair takes the fastest way: ports between tabs of one browser, WebRTC between browsers", async () => {
    const [one, two] = [await host.browser(), await host.browser()];
    const a = await host.join(one);
    expect(a.invitation).toMatch(new RegExp(`^${host.server.url}#join=`));
    const { invitation } = a;
    const b = await host.join(one, { invitation });
    const c = await host.join(two, { invitation });
    await expectLinked([a, b, c], (x, y) => (x !== c && y !== c ? "tab" : "webrtc 1"));
    // Offers in reserve cost nothing: only the door to c and its lane look for ways to connect.
    expect(await a.page.evaluate(() => window.page.gathering())).toBeLessThanOrEqual(3);

    // A tab that goes away says so; a crashed one is missed too.
    await c.page.close();
    expect((await a.until("left", c.selfId)).text).toBe("left the room");
    await b.page.goto("chrome://crash").catch(() => {});
    expect((await a.until("left", b.selfId)).text).toMatch(/tab was closed/);
    await closePages(a);
  });

  test("a forced way is taken: WebRTC in several lanes between tabs, ports without any relay", async () => {
    const browser = await host.browser();
    const a = await host.join(browser, { link: "webrtc", lanes: 3 });
    const b = await host.join(browser, { link: "webrtc", lanes: 3, invitation: a.invitation });
    await expectLinked([a, b], () => "webrtc 3");
    const c = await host.join(browser, { link: "tab", signalling: { relayUrl: "ws://127.0.0.1:9/none" } });
    const d = await host.join(browser, { link: "tab", invitation: c.invitation });
    await expectLinked([c, d], () => "tab");
    await closePages(a, b, c, d);
  });

  test("connections that were cut are made anew, and so are those that one or both ask for", async () => {
    const [one, two] = [await host.browser(), await host.browser()];
    const a = await host.join(one);
    const b = await host.join(two, { invitation: a.invitation });
    await expectLinked([a, b], () => "webrtc 1");
    const wires = async () => (await a.log()).filter(({ what }) => what === "wires").length;
    const reconnect = (guest: RoomGuest, peerId: string) =>
      guest.page.evaluate((id) => window.page.room!.reconnect(id), peerId);
    let expected = 1;
    for (const askers of [[a], [b], [a, b]]) {
      // Fresh connections are not made anew because of an impatient moment.
      await new Promise((next) => setTimeout(next, 750));
      await Promise.all(askers.map((guest) => reconnect(guest, guest === a ? b.selfId : a.selfId)));
      expected++;
      await Promise.all([a.until("wires", b.selfId, expected), b.until("wires", a.selfId, expected)]);
      expect((await a.echo(b.selfId, "anew")).text).toBe("anew");
      expect((await b.echo(a.selfId, "anew")).text).toBe("anew");
      expect(await wires()).toBe(expected);
    }
    // Everything between the two is gone at once; only signalling is left. Both notice the silence, as their engines would.
    await a.page.evaluate(() => window.page.cut());
    await Promise.all([reconnect(a, b.selfId), reconnect(b, a.selfId)]);
    await Promise.all([a.until("wires", b.selfId, expected + 1), b.until("wires", a.selfId, expected + 1)]);
    expect((await a.echo(b.selfId, "after the cut")).text).toBe("after the cut");
    expect((await a.log()).filter(({ what }) => what === "left")).toEqual([]);
    await closePages(a, b);
  });

  test("who leaves and joins again and again leaves nothing behind", async () => {
    const [one, two] = [await host.browser(), await host.browser()];
    const a = await host.join(one, { link: "webrtc" });
    const guest = await host.join(two, { link: "webrtc", invitation: a.invitation });
    for (let i = 1; i <= 15; i++) {
      await a.until("wires", guest.selfId, i);
      expect((await guest.echo(a.selfId, `visit ${i}`)).text).toBe(`visit ${i}`);
      await guest.page.evaluate(() => window.page.leave());
      await a.until("left", guest.selfId, i);
      await until(() => guest.page.evaluate(() => window.page.connections() === 0), "all connections are closed");
      await until(() => host.server.relay.socketCount === 1, "one socket is left");
      if (i < 15)
        await guest.page.evaluate((invitation) => window.page.join({ link: "webrtc", invitation }), a.invitation);
    }
    await until(() => a.page.evaluate(() => window.page.gathering() <= 1), "the room's maker holds no connection");
    await a.page.evaluate(() => window.page.leave());
    await until(() => a.page.evaluate(() => window.page.connections() === 0), "all connections are closed");
    await until(() => host.server.relay.topicCount === 0 && host.server.relay.socketCount === 0, "the relay is empty");
    await closePages(a, guest);
  });

  test("a peer in Node and tabs talk, whoever of the two offers", async () => {
    try {
      await installNodeWebRtc();
    } catch (error) {
      console.warn(`SKIPPED, and it should not be in CI: ${(error as Error).message}`);
      return;
    }
    const browser = await host.browser();
    const first = await host.join(browser, { link: "webrtc" });
    const heard: string[] = [];
    const refused: string[] = [];
    const lanes = new Map<string, RTCDataChannel[]>();
    const room = await joinRoom({
      ...{ invitation: first.invitation, pageUrl: first.invitation, link: "webrtc" },
      onWires(peerId, source) {
        if (source.kind !== "webrtc") throw new Error(`expected webrtc, got ${source.kind}`);
        const channel = source.channels[0]!;
        lanes.set(peerId, [...(lanes.get(peerId) ?? []), channel]);
        channel.onmessage = ({ data }) => {
          const message = JSON.parse(data as string) as { kind: string; text: string };
          if (message.kind === "ask") channel.send(JSON.stringify({ ...message, kind: "answer" }));
          else heard.push(message.text);
        };
      },
      onLeft: () => {},
      onRefused: (reason) => refused.push(reason),
    });
    // The smaller id offers; ids are drawn at random.
    const tabs = [first];
    const hasBoth = () => new Set(tabs.map(({ selfId }) => selfId < room.selfId)).size === 2;
    while (!hasBoth() && tabs.length < 12)
      tabs.push(await host.join(browser, { link: "webrtc", invitation: first.invitation }));
    for (const tab of tabs) {
      await tab.until("wires", room.selfId);
      expect((await tab.echo(room.selfId, "to Node")).text).toBe("to Node");
    }
    await new Promise((next) => setTimeout(next, 750));
    for (const tab of [tabs[0]!, tabs.at(-1)!]) {
      const count = (await tab.log()).filter(({ what, peerId }) => what === "wires" && peerId === room.selfId).length;
      room.reconnect(tab.selfId);
      await tab.until("wires", room.selfId, count + 1);
      expect((await tab.echo(room.selfId, "to Node again")).text).toBe("to Node again");
      const channel = lanes.get(tab.selfId)!.at(-1)!;
      await until(() => channel.readyState === "open", "the new lane is open");
      channel.send(JSON.stringify({ kind: "ask", id: 1, text: `from Node to ${tab.selfId}` }));
      await until(() => heard.includes(`from Node to ${tab.selfId}`), "the tab answers");
    }
    room.leave();
    for (const tab of tabs) await tab.until("left", room.selfId);
    expect([refused, ...tabs.map(({ errors }) => errors)].flat()).toEqual([]);
    await closePages(...tabs);
  });
});
