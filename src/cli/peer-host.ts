/** Where `ringwise peer` runs its peer: in this process (Dawn, node-datachannel), or in a Chrome. */
import { describeAdapter, joinRoom, type ModelSource, type PeerEvent, wiresFrom } from "../index.ts";
import { launchChrome } from "./chrome.ts";
import { openFolder } from "./folder-source.ts";
import type { ModelPlace } from "./model-place.ts";
import { createNodeDevice } from "./node-device.ts";
import { installNodeWebRtc } from "./node-webrtc.ts";
import { builtFolder } from "./paths.ts";
import { openEngine } from "./peer-engine.ts";
import type { PeerReport } from "./peer-job.ts";
import { allowLocalConnections, openPeerPage } from "./peer-page.ts";
import { serve } from "./server.ts";

/** How a peer joins. */
export interface HostOptions {
  invitation: string;
  name: string;
  /** Absent: the model comes from the peers. */
  place?: ModelPlace;
  memoryBytes?: number;
  iceServers?: readonly RTCIceServer[];
  headless: boolean;
  onEvent: (event: PeerEvent) => void;
  /** What the room says: connecting, open, lost. */
  onRoom: (message: string) => void;
  log: (line: string) => void;
}

/** A peer that runs. */
export interface PeerHost {
  readonly id: string;
  report(): Promise<PeerReport>;
  /** Says goodbye, gives everything back. */
  leave(): Promise<void>;
  /** Resolves with the reason when it has ended by itself: the browser was closed. */
  readonly ended: Promise<string>;
}

/** Here in Node, on the main thread. @throws {UsageError} where a package is missing. */
export async function hostInNode(options: HostOptions, device: GPUDevice, adapter?: string): Promise<PeerHost> {
  const { invitation, name, place, memoryBytes, iceServers, onEvent, onRoom } = options;
  await installNodeWebRtc();
  let source: ModelSource | undefined;
  if (place) source = "folder" in place ? await openFolder(place.folder) : place.source;
  let first: GPUDevice | undefined = device;
  const waiting: (() => void)[] = [];
  let engine: ReturnType<typeof openEngine> | undefined;
  const whenOpen = (work: () => void) => (engine ? work() : waiting.push(work));
  const room = await joinRoom({
    invitation,
    pageUrl: invitation.replace(/#.*/, ""),
    iceServers,
    link: "webrtc",
    onWires: (peerId, source) => {
      // At once: a channel that nobody listens to loses what comes in.
      const wires = wiresFrom(source);
      whenOpen(() => engine!.connect(peerId, wires));
    },
    onLeft: (peerId, reason) => whenOpen(() => engine!.peer.disconnect(peerId, reason)),
    onRefused: onRoom,
    onSignalling: (_, message) => onRoom(message),
  });
  engine = openEngine({
    ...{ id: room.selfId, name, isLeader: false, source, memoryBytes, token: process.env.HF_TOKEN },
    requestDevice: async () => {
      const given = first ?? (await createNodeDevice(adapter));
      first = undefined;
      return given;
    },
    onEvent,
    onJobEvent: () => {},
    onReconnect: (peerId) => room.reconnect(peerId),
    onBan: (peerId) => room.ban(peerId),
  });
  for (const work of waiting.splice(0)) work();
  const { call } = engine;
  return {
    id: room.selfId,
    report: () => call({ call: "report" }) as Promise<PeerReport>,
    async leave() {
      await call({ call: "leave" });
      room.leave();
    },
    ended: new Promise(() => {}),
  };
}

/** In a Chrome of its own, on a page served from here. */
export async function hostInChrome(
  options: HostOptions,
  adapter: "swiftshader" | "default" | undefined,
): Promise<PeerHost> {
  const { invitation, name, place, memoryBytes, iceServers, headless, onEvent, onRoom, log } = options;
  const mounts = place && "folder" in place ? [{ path: "/model/", folder: place.folder }] : [];
  const server = await serve([{ path: "/", folder: builtFolder("harness") }, ...mounts]);
  const browser = await launchChrome({ adapter, headless, endsOnSignals: false, acceptsAnyCertificate: true, log });
  const ended = new Promise<string>((resolve) => browser.once("disconnected", () => resolve("the browser was closed")));
  const close = async () => {
    await browser.close().catch(() => {});
    await server.close();
  };
  try {
    await allowLocalConnections(browser, server.url);
    const page = await openPeerPage({
      ...{ browser, url: server.url, log },
      onEvent: (event) => {
        if (event.type === "peer") onEvent(event.event);
        else if (event.type === "room") onRoom(event.message);
      },
    });
    const source = place && ("folder" in place ? "/model/" : place.source);
    const token = process.env.HF_TOKEN;
    const { id } = await page.open({ name, link: "webrtc", invitation, source, token, memoryBytes, iceServers });
    return {
      ...{ id, ended },
      report: () => page.call<PeerReport>(id, { call: "report" }),
      async leave() {
        await page.call(id, { call: "leave" }).catch(() => {});
        await close();
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The device that a Node peer would compute on; undefined where the package, a driver or an adapter is missing. */
export async function tryNodeDevice(adapter?: string): Promise<GPUDevice | undefined> {
  try {
    await import("node-datachannel");
    const device = await createNodeDevice(adapter);
    return describeAdapter(device) && device;
  } catch {
    return undefined;
  }
}
