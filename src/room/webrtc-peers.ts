/**
 * The peers who are reached by WebRTC: doors from signalling, the proof over each, then lanes for the engine. Of each pair, the
 * one with the smaller id offers; the other asks it to.
 */
import { RoomError } from "../errors.ts";
import type { Gate } from "./gate.ts";
import type { RoomKeys } from "./keys.ts";
import { answerLanes, type LaneHost, type Lanes, offerLanes, readLaneMessage } from "./lanes.ts";
import { fingerprintOf, proveSecret } from "./proof.ts";
import type { Signalling } from "./signalling.ts";
import type { ConnectionConstructor } from "./tracked-connection.ts";
import type { WireSource } from "./types.ts";

const PROOF_MS = 8_000;
/** Two renewals are at least this far apart, whoever asks. */
const RENEW_PAUSE_MS = 700;
/** Two offers that are answered are at least this far apart. */
const OFFER_PAUSE_MS = 150;
/** A door over which a renewal got no answer for this long is dead: it is found again through signalling. */
const DOOR_ANSWER_MS = 1_000;
/** How long a peer may be without door and lanes before it counts as gone. */
const LOST_MS = 8_000;
/** The same, where the other end closed both in good order (its page went away). */
const CLOSED_MS = 1_500;
/** For a refusal's sentence to get there before the door is shut. */
const REFUSAL_MS = 200;
const MAX_TEXT_LENGTH = 160 * 1024;

interface Peer {
  id: string;
  /** Through the door that it has now. */
  isProven: boolean;
  /** The caller has been given wires to it. */
  isMember: boolean;
  /** Texts that came during the proof, and who waits for one. */
  inbox: unknown[];
  awaiting: { resolve(message: unknown): void; reject(error: Error): void } | undefined;
  hasDoor: boolean;
  /** Counts doors, so that what an earlier one left behind is told apart. */
  door: number;
  lanes: Lanes | undefined;
  attempt: number;
  renewedMs: number;
  /** When its latest offer was answered. */
  offeredMs: number;
  doorTimer: ReturnType<typeof setTimeout> | undefined;
  lostTimer: ReturnType<typeof setTimeout> | undefined;
}

/** What is needed, and what is told. */
export interface WebRtcPeersOptions {
  selfId: string;
  keys: RoomKeys;
  gate: Gate;
  lanes: number;
  maxPeers: number;
  /** Peers reached in other ways; they count towards `maxPeers`. */
  otherPeerCount(): number;
  rtcConfiguration: RTCConfiguration;
  RtcPeerConnection: ConnectionConstructor;
  onWires(peerId: string, source: WireSource): void;
  onLeft(peerId: string, reason: string): void;
  onRefused(reason: string): void;
}

/** See {@link createWebRtcPeers}. */
export interface WebRtcPeers {
  /** To be given signalling once it is there. */
  signalling: Signalling | undefined;
  onDoor(peerId: string): void;
  onDoorText(peerId: string, text: string): void;
  onDoorLost(peerId: string): void;
  has(peerId: string): boolean;
  reconnect(peerId: string): void;
  /** Ends a connection and tells the other side why (absent: it is reached by another way); no word to the caller. */
  drop(peerId: string, reason?: string): void;
  leave(): void;
}

/** A channel may open a moment before the page is told that the description it stands on was taken. */
async function describedBy(connection: RTCPeerConnection): Promise<void> {
  for (let tries = 0; tries < 100 && connection.connectionState !== "closed"; tries++) {
    if (connection.localDescription && connection.remoteDescription) return;
    await new Promise((next) => setTimeout(next, 10));
  }
}

/** Peers by WebRTC. */
export function createWebRtcPeers(options: WebRtcPeersOptions): WebRtcPeers {
  const { selfId, gate } = options;
  const peers = new Map<string, Peer>();
  let hasLeft = false;

  const send = (peer: Peer, message: object) => {
    const sent = api.signalling?.send(peer.id, JSON.stringify(message));
    // A door that is gone says so by itself.
    return Promise.resolve(sent).catch(() => {});
  };

  function forget(peer: Peer, error: Error): void {
    clearTimeout(peer.doorTimer);
    clearTimeout(peer.lostTimer);
    peer.lanes?.close(false);
    peer.lanes = undefined;
    peer.awaiting?.reject(error);
    peer.awaiting = undefined;
    peers.delete(peer.id);
  }

  /** Unless the peer has come in anew meanwhile. */
  function closeDoor(peer: Peer): void {
    if (!peers.has(peer.id)) api.signalling?.dropDoor(peer.id);
  }

  function goodbye(peer: Peer, reason: string): void {
    if (peers.get(peer.id) !== peer) return;
    forget(peer, new RoomError(reason));
    api.signalling?.dropDoor(peer.id);
    if (peer.isMember) options.onLeft(peer.id, reason);
  }

  /** Turns a peer away, telling both sides why. */
  function refuse(peer: Peer, reason: string): void {
    options.onRefused(reason);
    gate.refuse(peer.id);
    void send(peer, { type: "refused", reason }).then(() => setTimeout(() => closeDoor(peer), REFUSAL_MS));
    forget(peer, new RoomError(reason));
    if (peer.isMember) options.onLeft(peer.id, reason);
  }

  async function prove(peer: Peer): Promise<void> {
    const door = peer.door;
    const connection = api.signalling?.connectionOf(peer.id);
    const timer = setTimeout(
      () => peer.awaiting?.reject(new RoomError("the other side did not prove itself in time.")),
      PROOF_MS,
    );
    try {
      if (!connection) throw new RoomError("the connection was gone again at once.");
      await describedBy(connection);
      const side = {
        ...{ selfId, peerId: peer.id },
        selfBinding: fingerprintOf(connection.localDescription?.sdp),
        peerBinding: fingerprintOf(connection.remoteDescription?.sdp),
      };
      await proveSecret(options.keys.proofKey, side, {
        send: (message) => send(peer, message),
        receive: () =>
          new Promise((resolve, reject) => {
            const message = peer.inbox.shift();
            if (message !== undefined) resolve(message);
            else peer.awaiting = { resolve, reject };
          }),
      });
    } catch (error) {
      if (peers.get(peer.id) === peer && peer.door === door && peer.hasDoor) refuse(peer, (error as Error).message);
      return;
    } finally {
      clearTimeout(timer);
      peer.awaiting = undefined;
    }
    if (peers.get(peer.id) !== peer || peer.door !== door) return;
    peer.isProven = true;
    clearTimeout(peer.lostTimer);
    // Messages that came behind the proof, in the same breath.
    for (const message of peer.inbox.splice(0)) handle(peer, message as Record<string, unknown>);
    if (!peer.lanes?.isOpen) renew(peer, true);
  }

  /** New lanes: offered, or asked for. */
  function renew(peer: Peer, isUrgent: boolean): void {
    const now = performance.now();
    if (!isUrgent && now - peer.renewedMs < RENEW_PAUSE_MS) return;
    peer.renewedMs = now;
    if (selfId < peer.id) takeLanes(peer, offerLanes(hostFor(peer), options.lanes, ++peer.attempt));
    else void send(peer, { type: "renew" });
    clearTimeout(peer.doorTimer);
    peer.doorTimer = setTimeout(() => {
      // Neither offer nor answer came: nobody is behind the door.
      if (peer.hasDoor && !peer.lanes?.isOpen) api.signalling?.dropDoor(peer.id);
    }, DOOR_ANSWER_MS);
  }

  function takeLanes(peer: Peer, lanes: Lanes): void {
    peer.lanes?.close(false);
    peer.lanes = lanes;
    peer.isMember = true;
    options.onWires(peer.id, { kind: "webrtc", channels: lanes.channels });
  }

  function hostFor(peer: Peer): LaneHost {
    return {
      RtcPeerConnection: options.RtcPeerConnection,
      rtcConfiguration: options.rtcConfiguration,
      send: (message) => void send(peer, message),
      onFarewell: () => goodbye(peer, "left the room"),
      onChange: () => {
        if (peer.lanes?.isDead && peers.get(peer.id) === peer) watchLoss(peer);
      },
    };
  }

  /** Something of the peer's connection ended: it is gone unless it comes back in time. */
  function watchLoss(peer: Peer): void {
    const isAlive = () => peer.lanes !== undefined && !peer.lanes.isDead;
    if (isAlive() || hasLeft) return;
    if (peer.hasDoor && peer.isProven) {
      renew(peer, false);
      return;
    }
    clearTimeout(peer.lostTimer);
    const wait = peer.lanes?.isDead ? CLOSED_MS : LOST_MS;
    peer.lostTimer = setTimeout(() => {
      if (!isAlive() && !peer.hasDoor) goodbye(peer, "the connection was closed");
    }, wait);
  }

  function handle(peer: Peer, message: Record<string, unknown>): void {
    if (message.type === "elsewhere") {
      // It has proved itself over a port between tabs, whose other end is here: no word of leaving.
      forget(peer, new RoomError("reached by another way"));
      setTimeout(() => closeDoor(peer), REFUSAL_MS);
      return;
    }
    if (message.type === "refused") {
      const reason = typeof message.reason === "string" ? message.reason.slice(0, 200) : "";
      options.onRefused(`A peer ended the connection: ${reason}`);
      gate.refuse(peer.id);
      goodbye(peer, `it ended the connection: ${reason}`);
      return;
    }
    if (message.type === "renew") {
      // Where both asked at once, this side's offer is on its way already, and the pause between renewals holds this one back.
      if (selfId < peer.id) renew(peer, false);
      return;
    }
    const lanes = readLaneMessage(message);
    if (lanes.type !== "offer") {
      if (peer.lanes?.attempt === lanes.attempt) {
        if (lanes.type === "answer") clearTimeout(peer.doorTimer);
        peer.lanes.take(lanes);
      }
      return;
    }
    if (selfId < peer.id) throw new RoomError("lanes: an offer came from the peer whose part is to answer");
    // Each offer costs connections: none that follows on another's heels.
    if (lanes.attempt <= peer.attempt || performance.now() - peer.offeredMs < OFFER_PAUSE_MS) return;
    clearTimeout(peer.doorTimer);
    peer.attempt = lanes.attempt;
    peer.offeredMs = peer.renewedMs = performance.now();
    takeLanes(peer, answerLanes(hostFor(peer), lanes));
  }

  const api: WebRtcPeers = {
    signalling: undefined,
    onDoor(peerId) {
      if (hasLeft) return;
      const known = peers.get(peerId);
      const peer: Peer = known ?? {
        ...{ id: peerId, isProven: false, isMember: false, inbox: [], awaiting: undefined, hasDoor: true, door: 0 },
        ...{
          lanes: undefined,
          attempt: 0,
          renewedMs: Number.NEGATIVE_INFINITY,
          offeredMs: Number.NEGATIVE_INFINITY,
          doorTimer: undefined,
          lostTimer: undefined,
        },
      };
      peer.door++;
      peer.hasDoor = true;
      peer.isProven = false;
      peer.renewedMs = peer.offeredMs = Number.NEGATIVE_INFINITY;
      peer.inbox.length = 0;
      // The other page may count its offers from one again.
      if (selfId > peerId) peer.attempt = 0;
      peers.set(peerId, peer);
      if (gate.isBanned(peerId)) return refuse(peer, "You were removed from this room.");
      if (!known && peers.size + options.otherPeerCount() > options.maxPeers)
        return refuse(peer, `The room is full (${options.maxPeers + 1} peers).`);
      void prove(peer);
    },
    onDoorText(peerId, text) {
      const peer = peers.get(peerId);
      if (!peer) return;
      try {
        if (text.length > MAX_TEXT_LENGTH) throw new RoomError("a message is too long");
        const message: unknown = JSON.parse(text);
        if (typeof message !== "object" || message === null) throw new RoomError("a message is no object");
        if (peer.isProven) handle(peer, message as Record<string, unknown>);
        else if (peer.awaiting) {
          const { resolve } = peer.awaiting;
          peer.awaiting = undefined;
          resolve(message);
        } else if (peer.inbox.push(message) > 64) throw new RoomError("more messages than the proof has");
      } catch (error) {
        gate.refuse(peerId);
        options.onRefused(`A peer broke the room's protocol: ${(error as Error).message}`);
        goodbye(peer, "it broke the room's protocol");
      }
    },
    onDoorLost(peerId) {
      const peer = peers.get(peerId);
      if (!peer) return;
      peer.hasDoor = false;
      clearTimeout(peer.doorTimer);
      if (!peer.isProven && !peer.lanes) return forget(peer, new RoomError("the connection was closed"));
      peer.awaiting?.reject(new RoomError("the connection was closed"));
      peer.awaiting = undefined;
      watchLoss(peer);
    },
    has: (peerId) => peers.get(peerId)?.isMember === true,
    reconnect(peerId) {
      const peer = peers.get(peerId);
      if (!peer || hasLeft) return;
      const isDoorUp = api.signalling?.connectionOf(peerId)?.connectionState === "connected";
      if (peer.hasDoor && peer.isProven && isDoorUp) {
        renew(peer, false);
        return;
      }
      // Fallen, or falling: found again through signalling, without waiting for the platform to notice.
      if (!isDoorUp) api.signalling?.dropDoor(peerId);
      api.signalling?.announce();
    },
    drop(peerId, reason) {
      const peer = peers.get(peerId);
      if (!peer) return;
      // Without a farewell: what goes over the door says more.
      const message = reason === undefined ? { type: "elsewhere" } : { type: "refused", reason };
      void send(peer, message).then(() => setTimeout(() => closeDoor(peer), REFUSAL_MS));
      forget(peer, new RoomError(reason ?? "reached by another way"));
    },
    leave() {
      hasLeft = true;
      for (const peer of [...peers.values()]) {
        peer.lanes?.close(true);
        forget(peer, new RoomError("this peer left the room"));
      }
    },
  };
  return api;
}
