/** Joining a room: signalling, WebRTC and tabs of this browser, made into one. */
import { RoomError } from "../errors.ts";
import { createGate } from "./gate.ts";
import { createInvitation, formatInvitation, parseInvitation } from "./invitation.ts";
import { deriveRoomKeys } from "./keys.ts";
import { MAX_LANES } from "./lanes.ts";
import { enterSignalling, type Signalling } from "./signalling.ts";
import { joinTabs, type TabPeers } from "./tab-peers.ts";
import type { Room, RoomOptions, WireSource } from "./types.ts";
import { createWebRtcPeers } from "./webrtc-peers.ts";

const DEFAULT_MAX_PEERS = 63;
/** A guest who has met nobody for this long is told so. */
const LONELY_MS = 10_000;
/** How long a connection outlives the word that ends it. */
const PARTING_MS = 500;

/** The relay of the server that the page comes from. */
function ownRelay(pageUrl: string): string {
  const url = new URL("/relay", pageUrl);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

function checkOptions({ lanes = 1, maxPeers = DEFAULT_MAX_PEERS, link = "auto" }: RoomOptions): void {
  if (!Number.isInteger(lanes) || lanes < 1 || lanes > MAX_LANES)
    throw new RoomError(`joinRoom: expected lanes from 1 to ${MAX_LANES}, got ${lanes}`);
  if (!Number.isInteger(maxPeers) || maxPeers < 1)
    throw new RoomError(`joinRoom: expected maxPeers of at least 1, got ${maxPeers}`);
  if (!["auto", "tab", "webrtc"].includes(link))
    throw new RoomError(`joinRoom: expected link "auto", "tab" or "webrtc", got "${link}"`);
}

/**
 * Makes a room, or joins the one of an invitation. Resolves when the others can be looked for; they come by `onWires`.
 * @throws {RoomError} with a sentence for people: a broken invitation, no secure context, no WebRTC, a wrong option.
 */
export async function joinRoom(options: RoomOptions): Promise<Room> {
  checkOptions(options);
  const { link = "auto", maxPeers = DEFAULT_MAX_PEERS, signalling: chosen } = options;
  const chosenRelay = chosen && "relayUrl" in chosen ? chosen.relayUrl : undefined;
  const text = options.invitation ?? createInvitation(options.pageUrl, chosenRelay);
  const invitation = parseInvitation(text);
  const keys = await deriveRoomKeys(invitation.secret);
  // The id is trystero's: one for as long as the page lives.
  const { selfId } = await import("@trystero-p2p/core");
  const RtcPeerConnection = options.RtcPeerConnection ?? globalThis.RTCPeerConnection;
  const WebSocketClass = options.WebSocketClass ?? globalThis.WebSocket;
  if (link !== "tab" && (!RtcPeerConnection || !WebSocketClass))
    throw new RoomError(
      "joinRoom: WebRTC or WebSocket is missing here; in Node, pass those of the packages node-datachannel and ws.",
    );

  const gate = createGate();
  const counted = new Set<string>();
  let hasLeft = false;
  let signalling: Signalling | undefined;
  let tabs: TabPeers | undefined;
  const rtcConfiguration: RTCConfiguration = { iceServers: [...(options.iceServers ?? [])] };

  function wires(peerId: string, source: WireSource): void {
    if (hasLeft) return;
    counted.add(peerId);
    options.onWires(peerId, source);
  }
  function left(peerId: string, reason: string): void {
    if (hasLeft || tabs?.has(peerId) || webRtc.has(peerId)) return;
    counted.delete(peerId);
    options.onLeft(peerId, reason);
  }
  const refused = (reason: string) => {
    if (!hasLeft) options.onRefused?.(reason);
  };

  const webRtc = createWebRtcPeers({
    ...{ selfId, keys, gate, maxPeers, rtcConfiguration, RtcPeerConnection, lanes: options.lanes ?? 1 },
    otherPeerCount: () => [...counted].filter((peerId) => tabs?.has(peerId)).length,
    onWires(peerId, source) {
      // A tab's port is there already: faster, and the same peer.
      if (tabs?.has(peerId)) return;
      wires(peerId, source);
    },
    onLeft: left,
    onRefused: refused,
  });

  if (link !== "webrtc") {
    tabs = await joinTabs(
      {
        ...{ selfId, keys, maxPeers, startBroker: options.startBroker ?? defaultBroker },
        isBanned: gate.isBanned,
        otherPeerCount: () => [...counted].filter((peerId) => webRtc.has(peerId)).length,
        onWires(peerId, source) {
          webRtc.drop(peerId);
          wires(peerId, source);
        },
        onLeft: left,
        onRefused: refused,
      },
      (peerId, isHere) => gate.setElsewhere(peerId, isHere),
    );
    if (!tabs.isAvailable && link === "tab")
      throw new RoomError(
        'joinRoom: this browser has no SharedWorker here (as Chrome on Android), so tabs cannot be linked directly; use link "auto" or "webrtc".',
      );
  }
  if (link !== "tab") {
    const relayUrl = chosenRelay ?? invitation.relayUrl ?? ownRelay(options.pageUrl);
    signalling = await enterSignalling(
      keys,
      gate,
      {
        ...{ rtcConfiguration, RtcPeerConnection, WebSocketClass },
        where: chosen && "strategy" in chosen ? chosen : { relayUrl },
      },
      {
        onState: (state, message) => {
          if (!hasLeft) options.onSignalling?.(state, message);
        },
        onDoor: webRtc.onDoor,
        onDoorText: webRtc.onDoorText,
        onDoorLost: webRtc.onDoorLost,
        onRefused: refused,
      },
    );
    webRtc.signalling = signalling;
  } else options.onSignalling?.("open", "Meeting tabs of this browser.");

  const lonely = setTimeout(() => {
    if (counted.size === 0 && options.invitation !== undefined)
      options.onSignalling?.(
        "open",
        "Nobody answers in this room yet. Is the page of whoever invited you still open, and is this the invitation they sent last?",
      );
  }, LONELY_MS);
  return {
    selfId,
    invitation: options.invitation === undefined ? text : formatInvitation(invitation),
    reconnect(peerId) {
      if (tabs?.has(peerId)) tabs.reconnect(peerId);
      else webRtc.reconnect(peerId);
    },
    ban(peerId) {
      gate.ban(peerId);
      // A connection that ends at once takes along what was said over it last: why the peer is sent away.
      setTimeout(() => {
        const reason = "You were removed from this room.";
        tabs?.drop(peerId, reason);
        webRtc.drop(peerId, reason);
        counted.delete(peerId);
      }, PARTING_MS);
    },
    leave() {
      if (hasLeft) return;
      hasLeft = true;
      clearTimeout(lonely);
      tabs?.leave();
      webRtc.leave();
      signalling?.leave();
    },
  };
}

function defaultBroker(): SharedWorker | undefined {
  if (typeof SharedWorker === "undefined") return undefined;
  return new SharedWorker(new URL("./broker.worker.ts", import.meta.url), { type: "module", name: "ringwise-broker" });
}
