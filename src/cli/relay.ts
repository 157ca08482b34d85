/**
 * The relay: where peers find each other before they are connected. Sockets publish on topics and listen to them; it keeps
 * nothing, reads nothing (everything that a room sends is sealed with the room's secret), and holds everyone to small bounds.
 */
import type { IncomingMessage, Server } from "node:http";
import type { Server as SecureServer } from "node:https";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";

export const RELAY_PATH = "/relay";

/** Bounds that one misbehaving page cannot pass. */
export interface RelayLimits {
  frameBytes: number;
  topicsPerSocket: number;
  socketsPerAddress: number;
  sockets: number;
  /** Frames a socket may send: so many at once, and so many per second after that. */
  burst: number;
  framesPerSecond: number;
  /** Waiting to be read by a slow socket; past it, the socket is closed. */
  queuedBytes: number;
  heartbeatMs: number;
}

const LIMITS: RelayLimits = {
  frameBytes: 64 * 1024,
  topicsPerSocket: 8,
  socketsPerAddress: 128,
  sockets: 1024,
  burst: 400,
  framesPerSecond: 50,
  queuedBytes: 4 * 1024 * 1024,
  heartbeatMs: 15_000,
};
const MAX_TOPIC_LENGTH = 128;
/** Close codes: RFC 6455, section 7.4.1. */
const [GOING_AWAY, POLICY, TRY_LATER] = [1001, 1008, 1013] as const;

/** A running relay. */
export interface Relay {
  readonly socketCount: number;
  readonly topicCount: number;
  close(): void;
}

interface Client {
  topics: Set<string>;
  credit: number;
  creditMs: number;
  isAlive: boolean;
  address: string;
}

const isLoopback = (host: string) => /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/.test(host);

/** Pages of this server, pages of this machine for this machine, and programs (which send no Origin). */
function isWelcome({ headers }: IncomingMessage): boolean {
  if (headers.origin === undefined) return true;
  const origin = URL.canParse(headers.origin) ? new URL(headers.origin).host : "";
  const host = headers.host ?? "";
  return origin === host || (isLoopback(origin) && isLoopback(host));
}

/** What a frame asks for; undefined where it is no request. */
function readFrame(
  text: string,
): { verb: "subscribe" | "unsubscribe" | "publish"; topic: string; payload?: string } | undefined {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof frame !== "object" || frame === null) return undefined;
  const { subscribe, unsubscribe, publish, payload } = frame as Record<string, unknown>;
  const isTopic = (value: unknown): value is string =>
    typeof value === "string" && value.length > 0 && value.length <= MAX_TOPIC_LENGTH;
  if (isTopic(subscribe)) return { verb: "subscribe", topic: subscribe };
  if (isTopic(unsubscribe)) return { verb: "unsubscribe", topic: unsubscribe };
  if (isTopic(publish) && typeof payload === "string") return { verb: "publish", topic: publish, payload };
  return undefined;
}

/**
 * Attaches a relay to a server, at {@link RELAY_PATH}.
 * @param isAllowedHost The server's own check of the Host header.
 */
export function attachRelay(
  server: Server | SecureServer,
  isAllowedHost: (host: string | undefined) => boolean,
  limits: Partial<RelayLimits> = {},
): Relay {
  const bounds = { ...LIMITS, ...limits };
  const sockets = new WebSocketServer({ noServer: true, maxPayload: bounds.frameBytes, perMessageDeflate: false });
  const clients = new Map<WebSocket, Client>();
  const topics = new Map<string, Set<WebSocket>>();

  function refuse(socket: Duplex, status: string): void {
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  }
  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => socket.destroy());
    const path = (request.url ?? "").split("?")[0];
    const address = request.socket.remoteAddress ?? "";
    const ofAddress = [...clients.values()].filter((client) => client.address === address).length;
    if (path !== RELAY_PATH) refuse(socket, "404 Not Found");
    else if (!isAllowedHost(request.headers.host) || !isWelcome(request)) refuse(socket, "403 Forbidden");
    else if (clients.size >= bounds.sockets || ofAddress >= bounds.socketsPerAddress)
      refuse(socket, "503 Service Unavailable");
    else sockets.handleUpgrade(request, socket, head, (webSocket) => take(webSocket, address));
  }

  function take(socket: WebSocket, address: string): void {
    const client: Client = {
      ...{ topics: new Set<string>(), credit: bounds.burst, creditMs: performance.now(), isAlive: true, address },
    };
    clients.set(socket, client);
    socket.on("pong", () => (client.isAlive = true));
    socket.on("error", () => socket.terminate());
    socket.on("close", () => {
      clients.delete(socket);
      for (const topic of client.topics) leave(socket, topic);
    });
    socket.on("message", (data, isBinary) => {
      client.isAlive = true;
      const now = performance.now();
      client.credit = Math.min(bounds.burst, client.credit + ((now - client.creditMs) / 1000) * bounds.framesPerSecond);
      client.creditMs = now;
      client.credit -= 1;
      const frame = isBinary ? undefined : readFrame(String(data));
      if (client.credit < 0) socket.close(TRY_LATER, "too many messages");
      else if (!frame) socket.close(POLICY, "not a relay message");
      else if (frame.verb === "publish") publish(socket, frame.topic, frame.payload!);
      else if (frame.verb === "unsubscribe") {
        if (client.topics.delete(frame.topic)) leave(socket, frame.topic);
      } else if (client.topics.size >= bounds.topicsPerSocket && !client.topics.has(frame.topic)) {
        socket.close(POLICY, "too many topics");
      } else {
        client.topics.add(frame.topic);
        topics.set(frame.topic, (topics.get(frame.topic) ?? new Set()).add(socket));
      }
    });
  }

  function leave(socket: WebSocket, topic: string): void {
    const members = topics.get(topic);
    members?.delete(socket);
    if (members?.size === 0) topics.delete(topic);
  }

  function publish(from: WebSocket, topic: string, payload: string): void {
    const text = JSON.stringify({ topic, payload });
    for (const socket of topics.get(topic) ?? []) {
      if (socket === from) continue;
      if (socket.bufferedAmount > bounds.queuedBytes) socket.terminate();
      else socket.send(text);
    }
  }

  const heartbeat = setInterval(() => {
    for (const [socket, client] of clients) {
      if (!client.isAlive) socket.terminate();
      else {
        client.isAlive = false;
        socket.ping();
      }
    }
  }, bounds.heartbeatMs);
  heartbeat.unref();
  server.on("upgrade", onUpgrade);

  return {
    get socketCount() {
      return clients.size;
    },
    get topicCount() {
      return topics.size;
    },
    close() {
      clearInterval(heartbeat);
      server.off("upgrade", onUpgrade);
      for (const socket of clients.keys()) socket.close(GOING_AWAY, "the server ends");
      sockets.close();
      // One that does not answer the close must not keep the server open.
      for (const socket of clients.keys()) socket.terminate();
    },
  };
}
