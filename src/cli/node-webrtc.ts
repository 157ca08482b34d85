/**
 * WebRTC and WebSocket for Node, put where a browser has them, so that `joinRoom` works here too. WebRTC is node-datachannel's
 * polyfill (libdatachannel; prebuilt inside its npm packages, optional): one peer per process, on the main thread, since the
 * native part aborts in worker threads.
 */
import { isMainThread } from "node:worker_threads";
import { UsageError } from "./errors.ts";

type ConnectionClass = typeof RTCPeerConnection;

/**
 * The polyfill with the gaps closed that a room meets: descriptions are null before they are there, `setLocalDescription`
 * resolves when its description is, and a candidate that comes too early is no error.
 */
function completed(Base: ConnectionClass): ConnectionClass {
  const orNull = (description: RTCSessionDescription | null) => (description?.sdp ? description : null);
  return class extends Base {
    #early: RTCIceCandidateInit[] = [];

    override get localDescription(): RTCSessionDescription | null {
      return orNull(super.localDescription);
    }
    override get remoteDescription(): RTCSessionDescription | null {
      return orNull(super.remoteDescription);
    }
    override async setLocalDescription(description?: RTCLocalSessionDescriptionInit): Promise<void> {
      // libdatachannel makes offer and answer by itself, as soon as there is a channel or an offer.
      const isAnswer = this.remoteDescription?.type === "offer";
      if (!this.localDescription) await (isAnswer ? this.createAnswer() : this.createOffer());
      if (description?.type === "rollback") throw new DOMException("rollback is not there", "NotSupportedError");
    }
    override async setRemoteDescription(description: RTCSessionDescriptionInit): Promise<void> {
      await super.setRemoteDescription(description);
      for (const candidate of this.#early.splice(0)) await this.addIceCandidate(candidate).catch(() => {});
    }
    override async addIceCandidate(candidate?: RTCIceCandidateInit | null): Promise<void> {
      if (!candidate) return;
      if (this.remoteDescription) await super.addIceCandidate(candidate);
      else this.#early.push(candidate);
    }
  };
}

/**
 * Makes `RTCPeerConnection` and a `WebSocket` for relays global. May be called again.
 * @throws {UsageError} where node-datachannel is not installed or has no build for this machine, or in a worker thread.
 */
export async function installNodeWebRtc(): Promise<void> {
  if (!isMainThread) throw new UsageError("a peer in Node runs on the main thread: node-datachannel aborts in others");
  const scope = globalThis as { RTCPeerConnection?: ConnectionClass; WebSocket?: unknown };
  if (scope.RTCPeerConnection) return;
  const { WebSocket } = await import("ws");
  // A relay needs no trust, since everything is sealed by the room's secret: one with a certificate of its own will do.
  scope.WebSocket = class extends WebSocket {
    constructor(url: string) {
      super(url, { rejectUnauthorized: false, maxPayload: 256 * 1024 });
    }
  };
  try {
    const { RTCPeerConnection: Polyfill } = await import("node-datachannel/polyfill");
    scope.RTCPeerConnection = completed(Polyfill as unknown as ConnectionClass);
  } catch (error) {
    throw new UsageError(
      `a peer in Node needs the optional package node-datachannel, which is missing or has no build for this machine (${String((error as Error).message).split("\n")[0]}); run "npm install node-datachannel", or add --headless to run the peer in Chrome`,
    );
  }
}
