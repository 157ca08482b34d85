/**
 * A page with a room and nothing else: what the room tells is written down, and wires go to a worker (or stay here), which
 * sends back what it is sent.
 */
import { joinRoom } from "../../../src/room/join-room.ts";
import type { Room, RoomOptions, WireSource } from "../../../src/room/types.ts";

/** What a test drives the page by. */
export interface RoomPage {
  log: { timeMs: number; what: string; peerId?: string; text: string }[];
  room: Room | undefined;
  /** Connections that are open, of those made in this page. */
  connections(): number;
  /** Closes those that stand, and tells nobody in this page. */
  cut(): void;
  /** Of these, those that look for ways to connect, or did. */
  gathering(): number;
  join(options: Partial<RoomOptions>): Promise<{ selfId: string; invitation: string }>;
  leave(): void;
  /** Sends text to a peer from the worker, and resolves with the text that comes back, and how long it took. */
  echo(peerId: string, text: string, timeoutMs?: number): Promise<{ text: string; milliseconds: number }>;
  violations: string[];
}

declare global {
  interface Window {
    page: RoomPage;
  }
}

const open = new Set<RTCPeerConnection>();
const Native = globalThis.RTCPeerConnection;
globalThis.RTCPeerConnection = class extends Native {
  constructor(configuration?: RTCConfiguration) {
    super(configuration);
    open.add(this);
  }
};

let worker = new Worker(new URL("./echo.worker.ts", import.meta.url), { type: "module" });
const waiting = new Map<number, (text: string) => void>();
let nextId = 0;
const onReply = ({ data }: MessageEvent<{ id: number; text: string }>) => waiting.get(data.id)?.(data.text);
worker.onmessage = onReply;

const note = (what: string, text: string, peerId?: string) =>
  page.log.push({ timeMs: performance.now(), what, text, peerId });

const page: RoomPage = {
  log: [],
  room: undefined,
  violations: [],
  connections: () => [...open].filter((connection) => connection.connectionState !== "closed").length,
  cut() {
    for (const connection of open) if (connection.connectionState === "connected") connection.close();
  },
  gathering: () =>
    [...open].filter(
      ({ connectionState, iceGatheringState }) => connectionState !== "closed" && iceGatheringState !== "new",
    ).length,
  async join(options) {
    const room = await joinRoom({
      pageUrl: location.href,
      onWires(peerId: string, source: WireSource) {
        const transfer = source.kind === "webrtc" ? source.channels : [source.port];
        worker.postMessage({ peerId, source }, transfer as unknown as Transferable[]);
        note("wires", source.kind === "webrtc" ? `webrtc ${source.channels.length}` : source.kind, peerId);
      },
      onLeft: (peerId, reason) => note("left", reason, peerId),
      onRefused: (reason) => note("refused", reason),
      onSignalling: (state, message) => note(state, message),
      ...options,
    });
    page.room = room;
    return { selfId: room.selfId, invitation: room.invitation };
  },
  leave() {
    page.room?.leave();
    page.room = undefined;
    worker.terminate();
    worker = new Worker(new URL("./echo.worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = onReply;
  },
  echo(peerId, text, timeoutMs = 10_000) {
    const id = ++nextId;
    const startMs = performance.now();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`echo: ${peerId} did not answer in ${timeoutMs} ms`)), timeoutMs);
      waiting.set(id, (back) => {
        clearTimeout(timer);
        waiting.delete(id);
        resolve({ text: back, milliseconds: performance.now() - startMs });
      });
      worker.postMessage({ peerId, id, text });
    });
  },
};
window.page = page;
addEventListener("pagehide", () => page.room?.leave());
document.addEventListener("securitypolicyviolation", (event) =>
  page.violations.push(`${event.effectiveDirective} ${event.blockedURI}`),
);
