/** The link suite over wires that only a browser has: a port between page and worker, and WebRTC, on the page and in a worker. */
import type { WireOrigin } from "../../src/link/wires.ts";
import { type Connection, linkConformance } from "../link-conformance.ts";
import { type End, LocalEnd, remoteEnd } from "../link-end.ts";

const MIB = 2 ** 20;

/** An end in a new worker. */
function workerEnd(selfId: string, peerId: string): { end: End; terminate(): void } {
  const worker = new Worker(new URL("./link-worker.ts", import.meta.url), { type: "module" });
  const { port1, port2 } = new MessageChannel();
  worker.postMessage({ port: port2, selfId, peerId }, [port2]);
  return { end: remoteEnd(port1), terminate: () => worker.terminate() };
}

/** What both ends are given, and what breaks it. */
interface Origins {
  ends: [WireOrigin, WireOrigin];
  cut(): void;
}

/** Through a relay, which breaks both ways at once. */
function ports(): Origins {
  const [first, second] = [new MessageChannel(), new MessageChannel()];
  const relay = (from: MessagePort, to: MessagePort) => {
    from.onmessage = ({ data }) => to.postMessage(data, data instanceof ArrayBuffer ? [data] : []);
  };
  relay(first.port2, second.port2);
  relay(second.port2, first.port2);
  return {
    ends: [
      { kind: "worker", port: first.port1 },
      { kind: "worker", port: second.port1 },
    ],
    cut() {
      first.port2.close();
      second.port2.close();
    },
  };
}

/** Pairs of peer connections in this page, each with one channel, connected without any server. */
async function channels(lanes: number): Promise<Origins> {
  const connections: RTCPeerConnection[] = [];
  const pairs = await Promise.all(
    Array.from({ length: lanes }, async () => {
      const [one, other] = [new RTCPeerConnection({ iceServers: [] }), new RTCPeerConnection({ iceServers: [] })];
      connections.push(one, other);
      one.onicecandidate = ({ candidate }) => void other.addIceCandidate(candidate ?? undefined);
      other.onicecandidate = ({ candidate }) => void one.addIceCandidate(candidate ?? undefined);
      // Negotiated: both can be moved to workers as soon as they are made.
      const options = { negotiated: true, id: 0 };
      const pair = [one.createDataChannel("ring", options), other.createDataChannel("ring", options)] as const;
      const connect = async () => {
        await one.setLocalDescription(await one.createOffer());
        await other.setRemoteDescription(one.localDescription!);
        await other.setLocalDescription(await other.createAnswer());
        await one.setRemoteDescription(other.localDescription!);
      };
      connect().catch((error) => console.error(error));
      return pair;
    }),
  );
  return {
    ends: [
      { kind: "webrtc", channels: pairs.map(([channel]) => channel) },
      { kind: "webrtc", channels: pairs.map(([, channel]) => channel) },
    ],
    cut() {
      for (const connection of connections) connection.close();
    },
  };
}

async function connect(
  make: () => Origins | Promise<Origins>,
  [a, b]: [{ end: End; terminate?(): void }, { end: End; terminate?(): void }],
): Promise<Connection> {
  const made: Origins[] = [];
  const replace = async () => {
    const origins = await make();
    made.push(origins);
    await Promise.all([a.end.attach(origins.ends[0]), b.end.attach(origins.ends[1])]);
  };
  await replace();
  return {
    ...{ a: a.end, b: b.end, replace },
    cut: async () => made.at(-1)!.cut(),
    dispose() {
      for (const { cut } of made) cut();
      a.terminate?.();
      b.terminate?.();
    },
  };
}

const here = (selfId: string, peerId: string) => ({ end: new LocalEnd({ selfId, peerId }) });

linkConformance("a port to a worker", () => connect(ports, [here("a", "b"), workerEnd("b", "a")]), {
  kind: "worker",
  mostBufferedBytes: 6 * MIB,
  isCutSilent: true,
});
linkConformance("WebRTC in one page", () => connect(() => channels(1), [here("a", "b"), here("b", "a")]), {
  kind: "webrtc",
  mostBufferedBytes: 3 * MIB,
  largeBytes: MIB + 4711,
});
linkConformance(
  "WebRTC between two workers, two lanes",
  () => connect(() => channels(2), [workerEnd("a", "b"), workerEnd("b", "a")]),
  { kind: "webrtc", mostBufferedBytes: 3 * MIB, largeBytes: MIB + 4711 },
);
