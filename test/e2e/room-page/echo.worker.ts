/** An engine worker's place: owns the wires, sends `ask` messages and answers those of others. */
import type { WireSource } from "../../../src/room/types.ts";

type End = { send(text: string): void };
const ends = new Map<string, End>();
/** Until the wire is open, and until there is one. */
const queued = new Map<string, string[]>();

function take(peerId: string, source: WireSource): void {
  const receive = (end: End) => (event: MessageEvent) => {
    const message = JSON.parse(event.data as string) as { kind: "ask" | "answer"; id: number; text: string };
    if (message.kind === "ask") end.send(JSON.stringify({ ...message, kind: "answer" }));
    else postMessage({ id: message.id, text: message.text });
  };
  if (source.kind !== "webrtc") {
    const { port } = source;
    const end = { send: (text: string) => port.postMessage(text) };
    port.onmessage = receive(end);
    ready(peerId, end);
    return;
  }
  // Messages go round over all lanes, so that each is used.
  let next = 0;
  const { channels } = source;
  const end = { send: (text: string) => channels[next++ % channels.length]!.send(text) };
  for (const channel of channels) {
    channel.onmessage = receive(end);
    channel.onopen = () => channels.every(({ readyState }) => readyState === "open") && ready(peerId, end);
  }
  if (channels.every(({ readyState }) => readyState === "open")) ready(peerId, end);
}

function ready(peerId: string, end: End): void {
  ends.set(peerId, end);
  for (const text of queued.get(peerId)?.splice(0) ?? []) end.send(text);
}

self.onmessage = ({ data }: MessageEvent) => {
  const { peerId, source, id, text } = data as { peerId: string; source?: WireSource; id: number; text: string };
  if (source) {
    ends.delete(peerId);
    take(peerId, source);
    return;
  }
  const message = JSON.stringify({ kind: "ask", id, text });
  try {
    const end = ends.get(peerId);
    if (!end) throw new Error("no wire yet");
    end.send(message);
  } catch {
    queued.set(peerId, [...(queued.get(peerId) ?? []), message]);
  }
};
