/** What the peer page, its engine workers and the host (Node) say to each other. */

import type { JobAnswer } from "../../src/cli/harness-answer.ts";
import type { JobEvent } from "../../src/cli/job-progress.ts";
import type { PeerCall } from "../../src/cli/peer-job.ts";
import type { PeerEvent, WireSource } from "../../src/index.ts";

/** How a peer is opened in a page. */
export interface PeerSetup {
  name: string;
  /** "worker": beside the page's other peers, linked by ports; else in a room. */
  link: "worker" | "auto" | "tab" | "webrtc";
  /** The room to join; absent: this peer makes one, and leads. */
  invitation?: string;
  relayUrl?: string;
  iceServers?: readonly RTCIceServer[];
  /** A folder that the host serves ("/model/"), a URL, or a Hugging Face id; absent: the model comes from the peers. */
  source?: string;
  token?: string;
  memoryBytes?: number;
  /** Puts the fault wrappers in. */
  isTest?: boolean;
}

/** A peer that was opened. */
export interface PeerOpened {
  id: string;
  /** Where there is a room. */
  invitation?: string;
}

/** What a page tells the host. */
export type PageEvent =
  | { type: "peer"; id: string; event: PeerEvent }
  | { type: "job"; id: string; event: JobEvent }
  | { type: "room"; id: string; message: string };

/** What the page offers to the host. */
export interface PeerPage {
  open(setup: PeerSetup): Promise<JobAnswer<PeerOpened>>;
  call(id: string, request: PeerCall): Promise<JobAnswer<unknown>>;
  /** Ends a worker without a word, as a crash would. */
  terminate(id: string): void;
}

/** Page to engine worker. */
export type WorkerRequest =
  | { type: "open"; number: number; id: string; isLeader: boolean; setup: PeerSetup; baseUrl: string }
  | { type: "wires"; peerId: string; source: WireSource }
  | { type: "left"; peerId: string; reason: string }
  | { type: "call"; number: number; request: PeerCall };

/** Engine worker to page. */
export type WorkerEvent =
  | { type: "answer"; number: number; answer: JobAnswer<unknown> }
  | { type: "reconnect" | "ban"; peerId: string }
  | PageEvent;
