/**
 * The page of a peer, driven from Node (src/cli/peer-page.ts): owns the room, hands wires to the engine worker. Several peers
 * in one page are linked by MessageChannels, without a room.
 */
import type { JobAnswer } from "../../src/cli/harness-answer.ts";
import { joinRoom, type Room, type WireSource } from "../../src/index.ts";
import type { PageEvent, PeerOpened, PeerPage, PeerSetup, WorkerEvent, WorkerRequest } from "./peer-protocol.ts";

declare global {
  /** Put here by the host: takes events while the peers work. */
  var ringwisePeerEmit: ((event: PageEvent) => Promise<void>) | undefined;
  var ringwisePeer: PeerPage;
}

const emit = (event: PageEvent) => void globalThis.ringwisePeerEmit?.(event);

/** An engine worker: numbered requests, each answered once. */
class EngineWorker {
  private readonly worker = new Worker(new URL("./peer.worker.ts", import.meta.url), { type: "module", name: "peer" });
  private readonly open = new Map<number, (answer: JobAnswer<never>) => void>();
  private count = 0;
  onReconnect: (peerId: string) => void = () => {};
  onBan: (peerId: string) => void = () => {};

  constructor() {
    this.worker.onmessage = ({ data }: MessageEvent<WorkerEvent>) => {
      if (data.type === "answer") {
        this.open.get(data.number)?.(data.answer as JobAnswer<never>);
        this.open.delete(data.number);
      } else if (data.type === "reconnect") this.onReconnect(data.peerId);
      else if (data.type === "ban") this.onBan(data.peerId);
      // Steps are many, and no command shows them.
      else if (data.type === "peer" ? data.event.type !== "steps" : true) emit(data as PageEvent);
    };
    this.worker.onerror = (event) => this.fail("WorkerError", event.message || "the engine worker could not start");
  }

  ask<T>(make: (number: number) => WorkerRequest): Promise<JobAnswer<T>> {
    const number = ++this.count;
    const answer = new Promise<JobAnswer<T>>((resolve) => this.open.set(number, resolve));
    this.worker.postMessage(make(number));
    return answer;
  }

  wires(peerId: string, source: WireSource): void {
    const moved = source.kind === "webrtc" ? source.channels : [source.port];
    this.worker.postMessage(
      { type: "wires", peerId, source } satisfies WorkerRequest,
      moved as unknown as Transferable[],
    );
  }

  left(peerId: string, reason: string): void {
    this.worker.postMessage({ type: "left", peerId, reason } satisfies WorkerRequest);
  }

  terminate(): void {
    this.worker.terminate();
    this.fail("WorkerError", "the engine worker was ended");
  }

  private fail(name: string, message: string): void {
    for (const resolve of this.open.values()) resolve({ ok: false, name, message });
    this.open.clear();
  }
}

const engines = new Map<string, EngineWorker>();

/** A new channel between two engines of this page. */
function link(a: string, b: string): void {
  const { port1, port2 } = new MessageChannel();
  engines.get(a)?.wires(b, { kind: "worker", port: port1 });
  engines.get(b)?.wires(a, { kind: "worker", port: port2 });
}

async function openBeside(setup: PeerSetup): Promise<JobAnswer<PeerOpened>> {
  const isLeader = engines.size === 0;
  const id = `worker-${crypto.randomUUID()}`;
  const engine = new EngineWorker();
  engine.onReconnect = (peerId) => engines.has(peerId) && link(id, peerId);
  const others = [...engines.keys()];
  engines.set(id, engine);
  const answer = await engine.ask<undefined>((number) => openRequest(number, id, isLeader, setup));
  if (!answer.ok) return answer;
  for (const other of others) link(id, other);
  return { ok: true, result: { id } };
}

const openRequest = (number: number, id: string, isLeader: boolean, setup: PeerSetup): WorkerRequest => ({
  ...{ type: "open", number, id, isLeader, setup, baseUrl: location.href.replace(/#.*/, "") },
});

async function openInRoom(setup: PeerSetup): Promise<JobAnswer<PeerOpened>> {
  if (setup.link === "worker") throw new Error("openInRoom: expected a room's link, got worker");
  const engine = new EngineWorker();
  let room: Room;
  try {
    room = await joinRoom({
      invitation: setup.invitation,
      // Who joins meets the others at the relay of the page that the invitation points at.
      pageUrl: (setup.invitation ?? location.href).replace(/#.*/, ""),
      signalling: setup.relayUrl ? { relayUrl: setup.relayUrl } : undefined,
      iceServers: setup.iceServers,
      link: setup.link,
      onWires: (peerId, source) => engine.wires(peerId, source),
      onLeft: (peerId, reason) => engine.left(peerId, reason),
      onRefused: (message) => emit({ type: "room", id: room?.selfId ?? "", message }),
      onSignalling: (_, message) => emit({ type: "room", id: room?.selfId ?? "", message }),
    });
  } catch (error) {
    engine.terminate();
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    return { ok: false, name, message };
  }
  const id = room.selfId;
  engine.onReconnect = (peerId) => room.reconnect(peerId);
  engine.onBan = (peerId) => room.ban(peerId);
  engines.set(id, engine);
  rooms.set(id, room);
  addEventListener("pagehide", () => room.leave());
  const answer = await engine.ask<undefined>((number) => openRequest(number, id, !setup.invitation, setup));
  return answer.ok ? { ok: true, result: { id, invitation: room.invitation } } : answer;
}

const rooms = new Map<string, Room>();

globalThis.ringwisePeer = {
  open: (setup) => (setup.link === "worker" ? openBeside(setup) : openInRoom(setup)),
  async call(id, request) {
    const engine = engines.get(id);
    if (!engine) return { ok: false, name: "Error", message: `call: no peer ${id} on this page` };
    const answer = await engine.ask((number) => ({ type: "call", number, request }));
    if (request.call === "leave") {
      rooms.get(id)?.leave();
      engine.terminate();
      engines.delete(id);
    }
    return answer;
  },
  terminate(id) {
    engines.get(id)?.terminate();
    engines.delete(id);
  },
};
