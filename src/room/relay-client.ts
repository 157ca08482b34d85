/**
 * A socket to the relay (`src/cli/relay.ts`): topics to publish on and to listen to, nothing more. Comes back by itself when
 * the connection is lost, and then listens to the same topics again.
 */

/** Of a frame in either direction; the relay closes sockets that send more. */
export const MAX_RELAY_FRAME_LENGTH = 64 * 1024;
const RETRY_MS = { first: 300, most: 5_000 };

/** The part of `WebSocket` that is used: the platform's own, or that of the package `ws`. */
export type WebSocketConstructor = new (url: string) => WebSocket;

/** See {@link openRelay}. */
export interface RelayClient {
  publish(topic: string, payload: string): void;
  /** @returns Ends it. */
  subscribe(topic: string, onPayload: (payload: unknown) => void): () => void;
  /** Makes a lost connection anew at once, instead of at the end of the pause. */
  hurry(): void;
  close(): void;
}

/** What the client tells. */
export interface RelayEvents {
  onState(state: "connecting" | "open" | "lost", message: string): void;
}

/** Connects to a relay. Never rejects: whether and when it is open, `onState` says. */
export function openRelay(url: string, events: RelayEvents, WebSocketClass: WebSocketConstructor): RelayClient {
  const listeners = new Map<string, Set<(payload: unknown) => void>>();
  let socket: WebSocket | undefined;
  let isClosed = false;
  let retryMs = RETRY_MS.first;
  let retryTimer: ReturnType<typeof setTimeout> | undefined;

  const send = (message: object) => {
    if (socket?.readyState === 1) socket.send(JSON.stringify(message));
  };

  function receive(data: unknown): void {
    if (typeof data !== "string" || data.length > MAX_RELAY_FRAME_LENGTH) return;
    let message: unknown;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (typeof message !== "object" || message === null) return;
    const { topic, payload } = message as Record<string, unknown>;
    if (typeof topic !== "string") return;
    for (const listener of listeners.get(topic) ?? []) listener(payload);
  }

  function connect(): void {
    clearTimeout(retryTimer);
    retryTimer = undefined;
    events.onState("connecting", `Connecting to ${url}.`);
    const current = new WebSocketClass(url);
    socket = current;
    let wasOpen = false;
    current.onopen = () => {
      wasOpen = true;
      retryMs = RETRY_MS.first;
      for (const topic of listeners.keys()) send({ subscribe: topic });
      events.onState("open", `Connected to ${url}.`);
    };
    current.onmessage = (event) => receive(event.data);
    current.onerror = () => {};
    current.onclose = () => {
      if (isClosed || socket !== current) return;
      const why = wasOpen ? "lost its connection to" : "cannot reach";
      events.onState("lost", `This page ${why} the relay ${url}; trying again. Peers who are connected stay so.`);
      retryTimer = setTimeout(connect, retryMs * (0.5 + Math.random()));
      retryMs = Math.min(RETRY_MS.most, retryMs * 2);
    };
  }
  connect();

  return {
    publish: (topic, payload) => send({ publish: topic, payload }),
    subscribe(topic, onPayload) {
      const set = listeners.get(topic) ?? new Set();
      listeners.set(topic, set.add(onPayload));
      if (set.size === 1) send({ subscribe: topic });
      return () => {
        set.delete(onPayload);
        if (set.size > 0 || listeners.get(topic) !== set) return;
        listeners.delete(topic);
        send({ unsubscribe: topic });
      };
    },
    hurry() {
      if (retryTimer !== undefined && !isClosed) connect();
    },
    close() {
      isClosed = true;
      clearTimeout(retryTimer);
      listeners.clear();
      socket?.close();
    },
  };
}
