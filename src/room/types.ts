/**
 * A room: who may talk to whom. Finds peers (signalling), lets in those who hold the secret, and hands over wires. Lives on
 * the page's main thread (RTCPeerConnection exists nowhere else); the engine worker gets the wires and does the talking.
 */
import type { LinkKind } from "../link/types.ts";

/** What can be moved into a worker, there to become wires (`wiresFrom` of link/): channels and ports are transferable. */
export type WireSource = { kind: "webrtc"; channels: RTCDataChannel[] } | { kind: "worker" | "tab"; port: MessagePort };

/** What the room tells. */
export interface RoomEvents {
  /**
   * A peer has proved that it holds the secret, and can be talked to. Called again for the same peer when its connection
   * was made anew: the wires before are dead. Transfer what it holds in the same task (data channels can be moved only then).
   * Data channels may still be connecting (`readyState`), and may never open; then they come anew.
   */
  onWires(peerId: string, source: WireSource): void;
  /** The peer said goodbye, or its connection failed for good. */
  onLeft(peerId: string, reason: string): void;
  /** Someone tried to come in and was turned away (wrong secret, broken proof, room full); a sentence for people. */
  onRefused?(reason: string): void;
  /** Signalling: connecting, open, or lost, with a sentence. Peers who are connected stay so without it. */
  onSignalling?(state: "connecting" | "open" | "lost", message: string): void;
}

/** How a room is joined. */
export interface RoomOptions extends RoomEvents {
  /** The invitation, with the secret in its fragment. Absent: a new room is made. */
  invitation?: string;
  /** The page's address, which a new invitation points at. */
  pageUrl: string;
  /** WebSocket relay, e.g. "ws://192.168.0.7:8080/relay"; or a public strategy. Default: the relay of the page's own server. */
  signalling?: { relayUrl: string } | { strategy: "nostr" };
  /** ICE servers, never any by default. */
  iceServers?: readonly RTCIceServer[];
  /** Peer connections per peer. Default 1. */
  lanes?: number;
  /** Links to use. "auto": the fastest that works for each pair. Default "auto". */
  link?: "auto" | Extract<LinkKind, "tab" | "webrtc">;
  /** Most peers beside this one. Default 63. */
  maxPeers?: number;
  /** For Node: `RTCPeerConnection` of node-datachannel's polyfill, `WebSocket` of the package ws. Default: the platform's. */
  RtcPeerConnection?: new (
    configuration?: RTCConfiguration,
  ) => RTCPeerConnection;
  WebSocketClass?: new (url: string) => WebSocket;
  /** Starts the broker of tabs otherwise than from this package's own file; undefined: there is none. */
  startBroker?: () => SharedWorker | undefined;
}

/** A room that was joined: see `joinRoom`. */
export interface Room {
  /** This peer's id in the room. */
  readonly selfId: string;
  /** The link to send to others: page, room and secret (in the fragment, never sent to a server). */
  readonly invitation: string;
  /** Makes the connection to a silent peer anew (it may answer with {@link RoomEvents.onWires}). */
  reconnect(peerId: string): void;
  /** Ends the connection to a peer and does not let it in again. */
  ban(peerId: string): void;
  /** Says goodbye to all, at once: fit for `pagehide`. */
  leave(): void;
}
