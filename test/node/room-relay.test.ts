/** The relay: topics and nothing more, with bounds that nobody passes; and the client, which comes back. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { attachRelay } from "../../src/cli/relay.ts";
import { type StaticServer, serve } from "../../src/cli/server.ts";
import { openRelay, type WebSocketConstructor } from "../../src/room/relay-client.ts";

const WebSocketClass = WebSocket as unknown as WebSocketConstructor;

async function until(isTrue: () => boolean, what: string): Promise<void> {
  const deadlineMs = performance.now() + 10_000;
  while (!isTrue()) {
    if (performance.now() > deadlineMs) throw new Error(`until: ${what}`);
    await new Promise((next) => setTimeout(next, 5));
  }
}

/** A bare socket: resolves when it is open, rejects with the HTTP status where it is refused. */
function connect(url: string, headers: Record<string, string> = {}): Promise<WebSocket> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { headers });
    socket.once("open", () => resolve(socket));
    socket.once("unexpected-response", (_, response) => reject(new Error(String(response.statusCode))));
    socket.once("error", reject);
  });
}

const closeOf = (socket: WebSocket) =>
  new Promise<number>((resolve) => socket.once("close", (code: number) => resolve(code)));

describe("the relay of a server", () => {
  let folder = "";
  let server: StaticServer;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "ringwise-relay-"));
    writeFileSync(join(folder, "index.html"), "<!doctype html>");
    server = await serve([{ path: "/", folder }], 0, {
      relayLimits: { topicsPerSocket: 3, socketsPerAddress: 6, burst: 50, framesPerSecond: 1, heartbeatMs: 100 },
    });
  });
  afterAll(async () => {
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it("hands what is published to the others on the topic, and to nobody else", async () => {
    const [a, b, c] = await Promise.all([1, 2, 3].map(() => connect(server.relayUrl)));
    const heard: Record<string, unknown[]> = { a: [], b: [], c: [] };
    for (const [name, socket] of Object.entries({ a, b, c }))
      socket!.on("message", (data) => heard[name]!.push(JSON.parse(String(data))));
    a!.send('{"subscribe":"t"}');
    b!.send('{"subscribe":"t"}');
    c!.send('{"subscribe":"other"}');
    await until(() => server.relay.topicCount === 2, "two topics");
    a!.send('{"publish":"t","payload":"hello"}');
    await until(() => heard.b!.length === 1, "b hears");
    expect(heard).toEqual({ a: [], b: [{ topic: "t", payload: "hello" }], c: [] });
    b!.send('{"unsubscribe":"t"}');
    a!.send('{"publish":"t","payload":"again"}');
    for (const socket of [a, b, c]) socket!.close();
    await until(() => server.relay.socketCount === 0 && server.relay.topicCount === 0, "nothing is left");
    expect(heard.b).toHaveLength(1);
  });

  it("closes sockets that send what is no request, too much, too often, or listen to too many topics", async () => {
    const bad = [
      "{",
      "[]",
      "7",
      '{"publish":"t"}',
      '{"publish":7,"payload":"x"}',
      `{"subscribe":"${"t".repeat(200)}"}`,
    ];
    for (const text of bad) {
      const socket = await connect(server.relayUrl);
      const closed = closeOf(socket);
      socket.send(text);
      expect(await closed, text.slice(0, 40)).toBe(1008);
    }
    const binary = await connect(server.relayUrl);
    const [binaryClosed, long] = [closeOf(binary), await connect(server.relayUrl)];
    binary.send(new Uint8Array(4));
    expect(await binaryClosed).toBe(1008);
    const longClosed = closeOf(long);
    long.on("error", () => {});
    long.send(JSON.stringify({ publish: "t", payload: "x".repeat(70_000) }));
    expect(await longClosed).toBe(1009);
    const greedy = await connect(server.relayUrl);
    const greedyClosed = closeOf(greedy);
    for (const topic of "abcd") greedy.send(`{"subscribe":"${topic}"}`);
    expect(await greedyClosed).toBe(1008);
    const fast = await connect(server.relayUrl);
    const fastClosed = closeOf(fast);
    for (let i = 0; i < 60; i++) fast.send('{"publish":"t","payload":"x"}');
    expect(await fastClosed).toBe(1013);
    await until(() => server.relay.socketCount === 0, "all are closed");
  });

  it("takes pages of its own and programs, and so many of one address", async () => {
    const { host } = new URL(server.url);
    const [own, loopback] = [`http://${host}`, "http://127.0.0.1:9"];
    for (const Origin of [own, loopback]) (await connect(server.relayUrl, { Origin })).close();
    await expect(connect(server.relayUrl, { Origin: "https://evil.example" })).rejects.toThrow("403");
    await expect(connect(server.relayUrl, { Host: "evil.example" })).rejects.toThrow("403");
    await expect(connect(server.relayUrl.replace("/relay", "/other"))).rejects.toThrow("404");
    await until(() => server.relay.socketCount === 0, "all are closed");
    const many = await Promise.all(Array.from({ length: 6 }, () => connect(server.relayUrl)));
    await expect(connect(server.relayUrl)).rejects.toThrow("503");
    for (const socket of many) socket.terminate();
    await until(() => server.relay.socketCount === 0, "all are closed");
  });

  it("drops sockets that do not answer its heartbeats", async () => {
    const dead = await connect(server.relayUrl);
    // A machine that is gone answers nothing.
    (dead as unknown as { _socket: { pause(): void } })._socket.pause();
    expect(server.relay.socketCount).toBe(1);
    await until(() => server.relay.socketCount === 0, "the dead one is dropped");
    dead.terminate();
  });
});

describe("the relay's client", () => {
  it("says when it is open and lost, and listens to its topics again after the relay is back", async () => {
    const states: string[] = [];
    let http = createServer();
    const start = (port: number) => new Promise<void>((up) => http.listen(port, "127.0.0.1", up));
    await start(0);
    const { port } = http.address() as { port: number };
    let relay = attachRelay(http, () => true);
    const url = `ws://127.0.0.1:${port}/relay`;
    const client = openRelay(url, { onState: (state) => states.push(state) }, WebSocketClass);
    const heard: unknown[] = [];
    client.subscribe("t", (payload) => heard.push(payload));
    await until(() => relay.topicCount === 1, "subscribed");
    relay.close();
    await new Promise((down) => http.close(down));
    await until(() => states.includes("lost"), "lost");
    http = createServer();
    await start(port);
    relay = attachRelay(http, () => true);
    await until(() => relay.topicCount === 1, "subscribed again");
    const other = await connect(url);
    other.send('{"publish":"t","payload":"back"}');
    await until(() => heard.length === 1, "heard");
    expect(heard).toEqual(["back"]);
    expect(states.slice(0, 3)).toEqual(["connecting", "open", "lost"]);
    expect(states.at(-1)).toBe("open");
    client.close();
    other.close();
    await until(() => relay.socketCount === 0, "closed");
    relay.close();
    http.close();
    expect(states.at(-1)).toBe("open");
  });
});
