/** What the parts of a link share with each other. */
import { LinkError } from "../errors.ts";
import type { FrameFields } from "./frame.ts";
import type { Lanes } from "./lanes.ts";
import type { OrderedChannel } from "./ordered.ts";
import type { LinkCounters, Wire } from "./types.ts";

/** See the module's comment. */
export interface LinkCore {
  readonly peerId: string;
  readonly epoch: number;
  readonly isClosed: boolean;
  readonly counters: LinkCounters;
  readonly lanes: Lanes;
  readonly ordered: OrderedChannel;
  /** `performance.now()`. */
  now(): number;
  /** Sends a frame that is not ordered, over lane 0 where no wire is named. */
  transmit(fields: FrameFields, wire?: Wire): void;
  /** Sends a message whose payload is in place, header left free. */
  transmitInPlace(message: Uint8Array<ArrayBuffer>, fields: FrameFields, wire: Wire): void;
  /** The other end broke the protocol: closes the link. The reason follows "the other end". */
  violation(reason: string): void;
  /** Smoothed by the link. */
  measured(bytes: number, milliseconds: number): void;
}

/** Rejection of what belongs to an epoch that is over. */
export const epochError = (name: string, what: string, epoch: number): LinkError =>
  new LinkError(`${name}: ${what} belongs to an epoch that is over, the link is at ${epoch}`, "epoch");

/** Calls `then` when the signal is aborted; the result takes that back. The signal is not aborted yet. */
export function onAbort(signal: AbortSignal, then: () => void): () => void {
  signal.addEventListener("abort", then, { once: true });
  return () => signal.removeEventListener("abort", then);
}
