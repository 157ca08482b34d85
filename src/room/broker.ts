/** What the broker does, apart from being a SharedWorker (broker.worker.ts). */

/** From a tab: it is here (again), and has these peers already; a pair's ports are wanted anew; are you there. */
export type BrokerRequest =
  | { type: "join"; roomId: string; peerId: string; has: string[] }
  | { type: "pair"; peerId: string }
  | { type: "ping" }
  | { type: "leave" };

/** To a tab: it is in; a peer, with the ports to it; a peer whose tab is gone; yes. */
export type BrokerMessage =
  | { type: "joined"; peerIds: string[] }
  | { type: "peer"; peerId: string; control: MessagePort; data: MessagePort }
  | { type: "gone"; peerId: string }
  | { type: "pong" };

/** The Web Lock that a tab holds while it lives: the platform frees it however the tab ends, by a crash too. */
export const lifeLockOf = (roomId: string, peerId: string): string => `ringwise ${roomId} ${peerId}`;

const ID = /^[\w-]{1,64}$/;
const MAX_TABS = 256;
const PAIR_PAUSE_MS = 300;

interface Tab {
  roomId: string;
  peerId: string;
  port: MessagePort;
}

/** See {@link createBroker}. */
export interface Broker {
  connect(port: MessagePort): void;
  readonly tabCount: number;
}

/** @param locks Tells of crashed tabs where the platform has it. */
export function createBroker(locks: LockManager | undefined): Broker {
  const tabs = new Map<MessagePort, Tab>();
  const pairedMs = new Map<string, number>();

  const say = (tab: Tab, message: BrokerMessage, transfer: Transferable[] = []) =>
    tab.port.postMessage(message, transfer);
  const othersOf = (tab: Tab) => [...tabs.values()].filter((other) => other !== tab && other.roomId === tab.roomId);

  function pair(a: Tab, b: Tab): void {
    const name = [a.peerId, b.peerId].sort().join(" ");
    const now = performance.now();
    if (now - (pairedMs.get(name) ?? Number.NEGATIVE_INFINITY) < PAIR_PAUSE_MS) return;
    pairedMs.set(name, now);
    const [control, data] = [new MessageChannel(), new MessageChannel()];
    const to = (tab: Tab, peerId: string, ports: [MessagePort, MessagePort]) =>
      say(tab, { type: "peer", peerId, control: ports[0], data: ports[1] }, ports);
    to(a, b.peerId, [control.port1, data.port1]);
    to(b, a.peerId, [control.port2, data.port2]);
  }

  function remove(tab: Tab): void {
    if (!tabs.delete(tab.port)) return;
    for (const other of othersOf(tab)) say(other, { type: "gone", peerId: tab.peerId });
    for (const name of pairedMs.keys()) if (name.split(" ").includes(tab.peerId)) pairedMs.delete(name);
    tab.port.close();
  }

  function join(port: MessagePort, request: Record<string, unknown>): void {
    const { roomId, peerId, has } = request;
    if (typeof roomId !== "string" || !ID.test(roomId) || typeof peerId !== "string" || !ID.test(peerId)) return;
    if (tabs.has(port) || tabs.size >= MAX_TABS) return;
    // The same tab again, over a new port: nobody has gone.
    for (const other of [...tabs.values()])
      if (other.roomId === roomId && other.peerId === peerId) tabs.delete(other.port);
    const tab: Tab = { roomId, peerId, port };
    tabs.set(port, tab);
    // Granted when the tab holds it no longer.
    locks?.request(lifeLockOf(roomId, peerId), () => remove(tab)).catch(() => {});
    const others = othersOf(tab);
    say(tab, { type: "joined", peerIds: others.map((other) => other.peerId) });
    const known = new Set(Array.isArray(has) ? has : []);
    for (const other of others) if (!known.has(other.peerId)) pair(other, tab);
  }

  return {
    get tabCount() {
      return tabs.size;
    },
    connect(port) {
      port.onmessage = ({ data }: MessageEvent) => {
        if (typeof data !== "object" || data === null) return;
        const request = data as Record<string, unknown>;
        const tab = tabs.get(port);
        if (request.type === "join") return join(port, request);
        if (request.type === "ping") return port.postMessage({ type: "pong" } satisfies BrokerMessage);
        if (!tab) return;
        if (request.type === "leave") return remove(tab);
        const other = othersOf(tab).find(({ peerId }) => peerId === request.peerId);
        if (request.type === "pair" && other) pair(tab, other);
      };
      port.addEventListener("close", () => {
        const tab = tabs.get(port);
        if (tab) remove(tab);
      });
      port.start();
    },
  };
}
