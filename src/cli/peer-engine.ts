/**
 * A peer with its GPU, its model and its links: what a page's engine worker hosts for the command line, and what `ringwise
 * peer` hosts in Node. Rooms stay outside: whoever has one hands wires in and is asked to reconnect or to ban.
 */
import { createPeer, ledgerOf, type ModelSource, type Peer, PeerError, type PeerEvent, type Wire } from "../index.ts";
import type { JobEvent } from "./job-progress.ts";
import { type HeardAnswer, type PeerCall, type PeerReport, runPeerJob, type SelfFault } from "./peer-job.ts";

/** How a peer is made here. */
export interface EngineOptions {
  id: string;
  name: string;
  /** The maker of the room leads. */
  isLeader: boolean;
  /** Absent: the model comes from the other peers. */
  source?: ModelSource;
  token?: string;
  /** GPU memory for K/V. */
  memoryBytes?: number;
  /** Called again after a lost device. */
  requestDevice: () => Promise<GPUDevice>;
  onEvent: (event: PeerEvent) => void;
  onJobEvent: (event: JobEvent) => void;
  onReconnect: (peerId: string) => void;
  onBan: (peerId: string) => void;
  /** Tests put themselves between the link and its wires, and do faults to this peer. */
  wrapWire?: (wire: Wire, peerId: string) => Wire;
  doFault?: (fault: SelfFault, device: GPUDevice | undefined) => void;
  faultCount?: () => number;
}

/** See {@link openEngine}. */
export interface PeerEngine {
  readonly peer: Peer;
  connect(peerId: string, wires: readonly Wire[]): void;
  call(request: PeerCall): Promise<unknown>;
}

/** Makes the peer. Everyone who asks is let in: whoever holds the invitation was meant to. */
export function openEngine(options: EngineOptions): PeerEngine {
  let device: GPUDevice | undefined;
  let heard: HeardAnswer = { tokenIds: [], text: "" };
  const controller = new AbortController();
  const hear = (event: PeerEvent): void => {
    if (event.type === "run") heard = { tokenIds: [], text: "" };
    else if (event.type === "piece") {
      heard.tokenIds.push(event.piece.tokenId);
      heard.text += event.piece.text;
    } else if (event.type === "end") heard.end = { stopReason: event.stopReason, message: event.message };
    options.onEvent(event);
  };
  const peer = createPeer({
    id: options.id,
    name: options.name,
    isLeader: options.isLeader,
    source: options.source,
    token: options.token,
    memoryBytes: options.memoryBytes,
    admit: "all",
    requestDevice: async () => (device = await options.requestDevice()),
    onEvent: hear,
    onReconnect: options.onReconnect,
    onBan: options.onBan,
  });

  const report = (): PeerReport => {
    const { bytes, peakBytes } = device ? ledgerOf(device).total : { bytes: 0, peakBytes: 0 };
    const { id, isLeader, peers } = peer;
    const faultCount = options.faultCount?.() ?? 0;
    return { id, isLeader, peers, heard, gpuBytes: bytes, peakGpuBytes: peakBytes, faultCount };
  };

  return {
    peer,
    connect(peerId, wires) {
      const { wrapWire } = options;
      peer.connect(peerId, wrapWire ? wires.map((wire) => wrapWire(wire, peerId)) : wires);
    },
    async call(request) {
      switch (request.call) {
        case "ready":
          return peer.ready(request.count, controller.signal);
        case "generate":
          return runPeerJob(peer, request.model, request.job, options.onJobEvent, controller.signal);
        case "report":
          return report();
        case "reset":
          heard = { tokenIds: [], text: "" };
          if (device) ledgerOf(device).resetPeaks();
          return undefined;
        case "admit":
          return peer.admit(request.peerId);
        case "remove":
          return peer.remove(request.peerId);
        case "fault":
          if (!options.doFault) throw new PeerError("call: expected a peer that was opened for tests, got a fault");
          return options.doFault(request.fault, device);
        case "leave":
          controller.abort(new PeerError("leave: this peer has left the ring"));
          return peer.leave();
      }
    },
  };
}
