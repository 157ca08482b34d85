/** What the page and its engine say to each other about peers: the page has the connections, the engine does the talking. */
import type { PeerEvent, PeerStatus, Rotation, WireDtype, WireSource } from "../../src/index.ts";
import type { EngineError, MemoryFacts, ModelChoice, PrefillFacts, RingTurn } from "../protocol.ts";

/** This machine as a peer. */
export interface PeerSelf {
  /** In the room. */
  id: string;
  name: string;
  /** GPU memory offered for K/V, in bytes. */
  memoryBytes: number;
  isLeader: boolean;
  /** Lets everyone in who has the link, when it leads. */
  admitAll: boolean;
  /** What the ring runs; the leader's choice, the others hear of it from the leader. */
  model?: ModelChoice;
}

/** What differs between a run alone and one over peers. */
export interface PeerRunChoice {
  wireDtype: WireDtype;
  replicas: 0 | 1;
}

/** Page to engine. Channels and ports in a {@link WireSource} are transferred along. */
export type PeerRequest =
  | { type: "peerStart"; self: PeerSelf }
  | { type: "peerWires"; peerId: string; source: WireSource }
  | { type: "peerGone"; peerId: string; reason: string }
  | { type: "peerAdmit"; peerId: string }
  | { type: "peerAdmitAll"; isOn: boolean }
  | { type: "peerRemove"; peerId: string; reason: string }
  /** Ends the run that this one leads, whoever began it. */
  | { type: "peerStop" }
  | { type: "peerLeave"; reason: string };

/** What is drawn of a run over peers, gathered into a few messages a second. */
export interface PeerProgress {
  /** Of a run that this page began (its pieces come as those of a job); else another peer leads it. */
  isOwn: boolean;
  prefill?: PrefillFacts;
  turns: PeerTurn[];
  memory?: MemoryFacts;
}

/** One turn of a ring of peers: the ranks that told of it, on one clock. */
export interface PeerTurn extends RingTurn {
  rotation: Rotation;
}

/** Engine to page. */
export type PeerMessage =
  | { type: "peerOpen"; peers: PeerStatus[] }
  | { type: "peerEvent"; event: Exclude<PeerEvent, { type: "steps" | "prefill" }> }
  | ({ type: "peerProgress" } & PeerProgress)
  /** A silent peer: its connection is to be made anew. A banned one: it is not to come back. */
  | { type: "peerReconnect"; peerId: string }
  | { type: "peerBan"; peerId: string }
  /** isOver: there is no peer here (any more). */
  | { type: "peerFailed"; isOver: boolean; error: EngineError };
