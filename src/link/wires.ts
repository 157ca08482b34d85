/** Wires from what can be moved between threads. */

import type { Wire } from "./types.ts";
import { createChannelWire } from "./wire-channel.ts";
import { createPortWire } from "./wire-port.ts";

/** Data channels (one per connection to the peer), or a port: what the room hands over. */
export type WireOrigin =
  | { kind: "webrtc"; channels: RTCDataChannel[]; maxMessageBytes?: number }
  | { kind: "worker" | "tab"; port: MessagePort };

/** Wires over these channels, or this port. To be called where they are to be used: channels and ports move, wires do not. */
export function wiresFrom(origin: WireOrigin): Wire[] {
  if (origin.kind !== "webrtc") return [createPortWire(origin.port, origin.kind)];
  const { channels, maxMessageBytes } = origin;
  return channels.map((channel) => createChannelWire(channel, { maxMessageBytes, lanes: channels.length }));
}
