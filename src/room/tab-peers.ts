/**
 * The peers in other tabs of this browser: found through the broker, reached over a MessagePort (about 15 times as fast as
 * WebRTC there). The proof of the secret goes over a port of its own, which stays with the page; the engine's port is
 * moved on untouched.
 */
import { RoomError } from "../errors.ts";
import { type BrokerMessage, type BrokerRequest, lifeLockOf } from "./broker.ts";
import type { RoomKeys } from "./keys.ts";
import { proveSecret } from "./proof.ts";
import type { WireSource } from "./types.ts";

const JOIN_MS = 2_000;
const PROOF_MS = 5_000;
const PING_MS = 2_000;
/** A broker that lets a ping wait for this long is gone. */
const PONG_MS = 5_000;

/** What is needed, and what is told. */
export interface TabPeersOptions {
  selfId: string;
  keys: RoomKeys;
  maxPeers: number;
  isBanned(peerId: string): boolean;
  /** Peers reached in other ways; they count towards `maxPeers`. */
  otherPeerCount(): number;
  onWires(peerId: string, source: WireSource): void;
  onLeft(peerId: string, reason: string): void;
  onRefused(reason: string): void;
  /** Starts the broker; throws, or gives undefined, where the platform has no SharedWorker. */
  startBroker(): SharedWorker | undefined;
}

/** See {@link joinTabs}. */
export interface TabPeers {
  /** Ids of the tabs that the broker knows of: they need no other way. */
  readonly isAvailable: boolean;
  has(peerId: string): boolean;
  reconnect(peerId: string): void;
  drop(peerId: string, reason: string): void;
  leave(): void;
}

interface TabPeer {
  control: MessagePort;
  isProven: boolean;
}

/**
 * Meets the other tabs. Resolves when the broker has answered, or is known not to.
 * @param onTabs Called with the ids of tabs as they are found, before they have proved anything, and as they go.
 */
export async function joinTabs(
  options: TabPeersOptions,
  onTabs: (peerId: string, isHere: boolean) => void,
): Promise<TabPeers> {
  const { selfId, keys } = options;
  const peers = new Map<string, TabPeer>();
  let broker: MessagePort | undefined;
  let hasLeft = false;
  /** When the ping went out that is not answered yet. Timers of hidden tabs may be a minute apart, so pauses mean nothing. */
  let pingMs: number | undefined;
  let pingTimer: ReturnType<typeof setInterval> | undefined;
  const life = new AbortController();
  let releaseLife: (() => void) | undefined;

  const ask = (request: BrokerRequest) => broker?.postMessage(request);

  function lose(peerId: string, reason: string, isGone: boolean): void {
    const peer = peers.get(peerId);
    if (isGone) onTabs(peerId, false);
    if (!peer) return;
    peers.delete(peerId);
    peer.control.close();
    if (peer.isProven) options.onLeft(peerId, reason);
  }

  async function meet(peerId: string, control: MessagePort, data: MessagePort): Promise<void> {
    const before = peers.get(peerId);
    const peer: TabPeer = { control, isProven: false };
    const isFull = !before && peers.size + options.otherPeerCount() >= options.maxPeers;
    peers.set(peerId, peer);
    before?.control.close();
    const inbox: unknown[] = [];
    let awaiting: { resolve(message: unknown): void; reject(error: Error): void } | undefined;
    const stop = (error: Error) => awaiting?.reject(error);
    const timer = setTimeout(() => stop(new RoomError("the other tab did not prove itself in time.")), PROOF_MS);
    control.onmessage = ({ data: message }: MessageEvent) => {
      const type = (message as { type?: unknown } | null)?.type;
      if (type === "bye") {
        stop(new RoomError("it left the room"));
        if (peers.get(peerId) === peer) lose(peerId, "left the room", true);
      } else if (peer.isProven && type === "refused") {
        const reason = String((message as { reason?: unknown }).reason).slice(0, 200);
        options.onRefused(`A peer ended the connection: ${reason}`);
        if (peers.get(peerId) === peer) lose(peerId, `it ended the connection: ${reason}`, false);
      } else if (peer.isProven) return;
      else if (awaiting) {
        const { resolve } = awaiting;
        awaiting = undefined;
        resolve(message);
      } else if (inbox.length < 16) inbox.push(message);
    };
    // Newer browsers tell when the other end's page is gone.
    control.addEventListener("close", () => {
      stop(new RoomError("the other tab is gone"));
      if (peers.get(peerId) === peer) lose(peerId, "its tab was closed", true);
    });
    try {
      if (options.isBanned(peerId)) throw new RoomError("You were removed from this room.");
      if (isFull) throw new RoomError(`The room is full (${options.maxPeers + 1} peers).`);
      // Ports of one browser have no fingerprints; that both are of this origin is the browser's word.
      const side = { selfId, peerId, selfBinding: "tab", peerBinding: "tab" };
      await proveSecret(keys.proofKey, side, {
        send: (message) => control.postMessage(message),
        receive: () =>
          new Promise((resolve, reject) => {
            if (inbox.length > 0) resolve(inbox.shift());
            else awaiting = { resolve, reject };
          }),
      });
    } catch (error) {
      const reason = (error as Error).message;
      control.postMessage({ type: "refused", reason });
      if (peers.get(peerId) === peer) {
        peers.delete(peerId);
        if (before?.isProven) options.onLeft(peerId, reason);
        if (!hasLeft) options.onRefused(`A tab was turned away: ${reason}`);
      }
      data.close();
      return;
    } finally {
      clearTimeout(timer);
    }
    if (hasLeft || peers.get(peerId) !== peer) return data.close();
    peer.isProven = true;
    options.onWires(peerId, { kind: "tab", port: data });
  }

  /** Connects to the broker; again, where the one before has died with the process that it lived in. */
  function connect(): Promise<boolean> {
    return new Promise((resolve) => {
      let worker: SharedWorker | undefined;
      try {
        worker = options.startBroker();
      } catch {
        // SharedWorker is forbidden here: then WebRTC connects tabs too.
      }
      if (!worker) return resolve(false);
      const timer = setTimeout(() => resolve(false), JOIN_MS);
      worker.onerror = () => resolve(false);
      const { port } = worker;
      broker = port;
      port.onmessage = ({ data }: MessageEvent<BrokerMessage>) => {
        pingMs = undefined;
        if (data.type === "joined") {
          clearTimeout(timer);
          for (const peerId of data.peerIds) onTabs(peerId, true);
          resolve(true);
        } else if (data.type === "peer") {
          onTabs(data.peerId, true);
          void meet(data.peerId, data.control, data.data);
        } else if (data.type === "gone") lose(data.peerId, "its tab was closed", true);
      };
      port.start();
      pingMs = undefined;
      ask({ type: "join", roomId: keys.roomId, peerId: selfId, has: [...peers.keys()] });
    });
  }

  // Held until the tab leaves or ends, whichever way.
  const isHeld = new Promise<void>((held) => {
    const locks = globalThis.navigator?.locks;
    if (!locks) return held();
    locks
      .request(lifeLockOf(keys.roomId, selfId), { signal: life.signal }, () => {
        held();
        return new Promise<void>((release) => (releaseLife = release));
      })
      .catch(() => held());
  });
  await isHeld;
  const isAvailable = await connect();
  if (isAvailable)
    pingTimer = setInterval(() => {
      if (pingMs === undefined) {
        pingMs = performance.now();
        ask({ type: "ping" });
      } else if (performance.now() - pingMs > PONG_MS) void connect();
    }, PING_MS);

  return {
    isAvailable,
    has: (peerId) => peers.get(peerId)?.isProven === true,
    reconnect(peerId) {
      if (peers.has(peerId)) ask({ type: "pair", peerId });
    },
    drop(peerId, reason) {
      const peer = peers.get(peerId);
      if (!peer) return;
      peers.delete(peerId);
      peer.control.postMessage({ type: "refused", reason });
    },
    leave() {
      hasLeft = true;
      clearInterval(pingTimer);
      for (const { control } of peers.values()) control.postMessage({ type: "bye" });
      peers.clear();
      ask({ type: "leave" });
      broker = undefined;
      releaseLife?.();
      life.abort();
    },
  };
}
