/** How a peer is made: what the page or the command line decides, with what is left open filled in. */
import type { ModelSource } from "../model/types.ts";
import type { PeerClock } from "./clock.ts";
import type { EngineParts } from "./engine.ts";
import type { PeerEvent } from "./types.ts";

/** See `createPeer`. */
export interface PeerOptions {
  /** This peer's id in the room. */
  id: string;
  /** As the person names it: "Anna's laptop". */
  name: string;
  /** The maker of the room leads it, and brings the model. Default false. */
  isLeader?: boolean;
  /**
   * Where the model comes from. The leader needs one. Others use theirs where it is the leader's model, else the id or address
   * that the leader names, else the weights come from the peers.
   */
  source?: ModelSource;
  /** Hugging Face access token. */
  token?: string;
  /** As in `LoadOptions`. */
  weightDtype?: "auto" | "f32" | "f16" | "bf16";
  /** GPU memory to offer for K/V, in bytes. Default 1 GiB. */
  memoryBytes?: number;
  /** Called for a device now, and again whenever it was lost. */
  requestDevice: () => Promise<GPUDevice>;
  /** "all": whoever has come through the room is let in; "ask" (the default): an "asks" event asks for `admit`. */
  admit?: "all" | "ask";
  onEvent?: (event: PeerEvent) => void;
  /** A peer is silent: its connection should be made anew (`room.reconnect`). */
  onReconnect?: (peerId: string) => void;
  /** A peer was sent away: the room should not let it in again (`room.ban`). */
  onBan?: (peerId: string) => void;
}

/** What tests put in the place of time and of the GPU. */
export interface PeerSeams {
  clock?: PeerClock;
  /** What the engine is made of. */
  engine?: EngineParts;
}
