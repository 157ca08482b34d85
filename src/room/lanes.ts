/**
 * Lanes: the connections that carry the engine's bytes, one data channel each. Their descriptions go over the peer's proven
 * door, so they are as trustworthy as it is, and they are made anew whenever a peer falls silent.
 *
 * The channels are negotiated (fixed id) and made before their connection stands: so both ends have them before the first
 * byte can come, and a page can move them into its engine worker in the task that made them, the only time this is allowed.
 */
import { RoomError } from "../errors.ts";
import type { ConnectionConstructor } from "./tracked-connection.ts";

const CHANNEL_ID = 1;
/** Beside it, on the first lane: what the rooms of the two pages say to each other when there is no time left. */
const FAREWELL_ID = 2;
const FAREWELL = "bye";
export const MAX_LANES = 8;
const MAX_SDP_LENGTH = 16 * 1024;
const MAX_CANDIDATES = 64;

/** Sent over the door: `attempt` counts the offers of one pair, so that answers to earlier ones are known. */
export type LaneMessage =
  | { type: "offer"; attempt: number; sdps: string[] }
  | { type: "answer"; attempt: number; sdps: string[] }
  | { type: "candidate"; attempt: number; lane: number; candidate: RTCIceCandidateInit };

/** One set of lanes to one peer. */
export interface Lanes {
  readonly attempt: number;
  readonly channels: RTCDataChannel[];
  /** All lanes stand. */
  readonly isOpen: boolean;
  /** None can carry anything any more. */
  readonly isDead: boolean;
  take(message: LaneMessage): void;
  /** With a goodbye where it can still be said. */
  close(sayGoodbye: boolean): void;
}

/** What a set of lanes needs and tells. */
export interface LaneHost {
  RtcPeerConnection: ConnectionConstructor;
  rtcConfiguration: RTCConfiguration;
  send(message: LaneMessage): void;
  /** The other page said goodbye. */
  onFarewell(): void;
  /** {@link Lanes.isOpen} or {@link Lanes.isDead} may have changed. */
  onChange(): void;
}

const isText = (value: unknown, maxLength: number): value is string =>
  typeof value === "string" && value.length > 0 && value.length <= maxLength;

/**
 * Reads a message about lanes.
 * @throws {RoomError} where it is none.
 */
export function readLaneMessage(message: Record<string, unknown>): LaneMessage {
  const { type, attempt, sdps, lane, candidate } = message;
  const wrong = () => new RoomError(`lanes: expected an offer, answer or candidate, got a broken "${String(type)}"`);
  if (!Number.isSafeInteger(attempt) || (attempt as number) < 1) throw wrong();
  if (type === "candidate") {
    const isLane = Number.isInteger(lane) && (lane as number) >= 0 && (lane as number) < MAX_LANES;
    if (!isLane || typeof candidate !== "object" || candidate === null) throw wrong();
    const { candidate: text, sdpMid, sdpMLineIndex, usernameFragment } = candidate as Record<string, unknown>;
    if (typeof text !== "string" || text.length > 1024) throw wrong();
    const init: RTCIceCandidateInit = { candidate: text };
    if (isText(sdpMid, 16)) init.sdpMid = sdpMid;
    if (Number.isInteger(sdpMLineIndex)) init.sdpMLineIndex = sdpMLineIndex as number;
    if (isText(usernameFragment, 256)) init.usernameFragment = usernameFragment;
    return { type, attempt: attempt as number, lane: lane as number, candidate: init };
  }
  if (type !== "offer" && type !== "answer") throw wrong();
  const isList = Array.isArray(sdps) && sdps.length > 0 && sdps.length <= MAX_LANES;
  if (!isList || !sdps.every((sdp) => isText(sdp, MAX_SDP_LENGTH))) throw wrong();
  return { type, attempt: attempt as number, sdps: sdps as string[] };
}

/** Lanes as the one who offers them makes them. */
export function offerLanes(host: LaneHost, count: number, attempt: number): Lanes {
  return makeLanes(host, attempt, count, undefined);
}

/** Lanes in answer to an offer. */
export function answerLanes(host: LaneHost, offer: LaneMessage & { type: "offer" }): Lanes {
  return makeLanes(host, offer.attempt, offer.sdps.length, offer.sdps);
}

function makeLanes(host: LaneHost, attempt: number, count: number, offers: readonly string[] | undefined): Lanes {
  const connections: RTCPeerConnection[] = [];
  const channels: RTCDataChannel[] = [];
  // Candidates that came before the description they belong to.
  const early: RTCIceCandidateInit[][] = [];
  const isDescribed: boolean[] = [];
  let farewell: RTCDataChannel | undefined;
  let isClosed = false;
  let candidateCount = 0;

  const describe: Promise<string>[] = [];
  for (let lane = 0; lane < count; lane++) {
    const connection = new host.RtcPeerConnection(host.rtcConfiguration);
    connections.push(connection);
    early.push([]);
    isDescribed.push(false);
    connection.addEventListener("connectionstatechange", () => !isClosed && host.onChange());
    connection.addEventListener("icecandidate", ({ candidate }) => {
      if (!candidate?.candidate || isClosed) return;
      const { sdpMid, sdpMLineIndex } = candidate;
      host.send({
        ...{ type: "candidate", attempt, lane },
        candidate: { candidate: candidate.candidate, sdpMid, sdpMLineIndex },
      });
    });
    // The offer is given to the platform first: an answerer's connection must not begin an offer of its own.
    const taken = offers && connection.setRemoteDescription({ type: "offer", sdp: offers[lane]! });
    channels.push(connection.createDataChannel("ringwise", { negotiated: true, id: CHANNEL_ID, ordered: true }));
    if (lane === 0) {
      farewell = connection.createDataChannel("farewell", { negotiated: true, id: FAREWELL_ID, ordered: true });
      farewell.addEventListener("message", ({ data }) => data === FAREWELL && !isClosed && host.onFarewell());
      farewell.addEventListener("close", () => !isClosed && host.onChange());
    }
    describe.push(
      (async () => {
        if (taken) {
          await taken;
          void flush(lane);
        }
        await connection.setLocalDescription();
        return connection.localDescription!.sdp;
      })(),
    );
  }

  async function flush(lane: number): Promise<void> {
    isDescribed[lane] = true;
    for (const candidate of early[lane]!.splice(0)) await add(lane, candidate);
  }

  /** A candidate that the platform does not take is one way less to connect, no more. */
  const add = (lane: number, candidate: RTCIceCandidateInit) =>
    connections[lane]!.addIceCandidate(candidate).catch(() => {});

  function fail(): void {
    if (isClosed) return;
    close(false);
    host.onChange();
  }

  Promise.all(describe).then((sdps) => {
    if (!isClosed) host.send({ type: offers ? "answer" : "offer", attempt, sdps });
  }, fail);

  function close(sayGoodbye: boolean): void {
    if (isClosed) return;
    isClosed = true;
    if (sayGoodbye && farewell?.readyState === "open") farewell.send(FAREWELL);
    for (const connection of connections) connection.close();
  }

  return {
    attempt,
    channels,
    get isOpen() {
      return !isClosed && connections.every((connection) => connection.connectionState === "connected");
    },
    get isDead() {
      // A connection that the other end closed shows first in its channels.
      if (isClosed || farewell?.readyState === "closed" || farewell?.readyState === "closing") return true;
      return connections.some(({ connectionState }) => connectionState === "failed" || connectionState === "closed");
    },
    take(message) {
      if (isClosed) return;
      if (message.type === "candidate") {
        if (message.lane >= count || ++candidateCount > MAX_CANDIDATES * count) return;
        if (isDescribed[message.lane]) void add(message.lane, message.candidate);
        else early[message.lane]!.push(message.candidate);
      } else if (message.type === "answer" && !offers && message.sdps.length === count) {
        message.sdps.forEach((sdp, lane) => {
          if (isDescribed[lane]) return;
          connections[lane]!.setRemoteDescription({ type: "answer", sdp }).then(() => flush(lane), fail);
        });
      }
    },
    close,
  };
}
