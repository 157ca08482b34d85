/**
 * Finding each other: trystero's rooms over our relay (or over Nostr), with encrypted session descriptions. What comes out
 * of here are "doors": connections to peers that know the room, over which the proof of the secret goes next.
 */
import type { JoinRoom, Room as TrysteroRoom } from "@trystero-p2p/core";
import { RoomError } from "../errors.ts";
import type { Gate } from "./gate.ts";
import { type RoomKeys, seal, unseal } from "./keys.ts";
import { openRelay, type RelayClient, type RelayEvents, type WebSocketConstructor } from "./relay-client.ts";
import { type ConnectionConstructor, trackConnections } from "./tracked-connection.ts";

/** Steady pause between two announcements of oneself; on coming and on losing a door there are more. */
const ANNOUNCE_MS = 4_000;
/** Announcements again after a door was lost, in ms from then. */
const REANNOUNCE_MS = [0, 250, 800, 1_800] as const;
const APP_ID = "ringwise";
const WARNING_PAUSE_MS = 10_000;

/** Whose message it says it is. */
function senderOf(text: string): unknown {
  try {
    return (JSON.parse(text) as { peerId?: unknown } | null)?.peerId;
  } catch {
    return undefined;
  }
}

/** See {@link enterSignalling}. */
export interface Signalling {
  /** Hands a text to a peer over its door. Rejects where there is no door. */
  send(peerId: string, text: string): Promise<void>;
  /** The connection behind a peer's door. */
  connectionOf(peerId: string): RTCPeerConnection | undefined;
  /** Ends a door that is dead or unwanted; the peer can be found again, unless the gate says otherwise. */
  dropDoor(peerId: string): void;
  /** Tells the others at once that this peer looks for them. */
  announce(): void;
  leave(): void;
}

/** What signalling tells. */
export interface SignallingEvents extends RelayEvents {
  onDoor(peerId: string): void;
  onDoorText(peerId: string, text: string): void;
  onDoorLost(peerId: string): void;
  onRefused(reason: string): void;
}

/** Where and how to meet. */
export interface SignallingOptions {
  where: { relayUrl: string } | { strategy: "nostr" };
  rtcConfiguration: RTCConfiguration;
  RtcPeerConnection: ConnectionConstructor;
  WebSocketClass: WebSocketConstructor;
}

/** A way to meet: trystero's, and what is ours about it. */
interface Strategy {
  join: JoinRoom;
  announce(): void;
  /** No word more, in or out. */
  quieten(): void;
  close(): void;
}

/** trystero's strategy over our relay: everything sealed, and only those heard whom the gate lets. */
async function relayStrategy(
  url: string,
  keys: RoomKeys,
  gate: Gate,
  events: SignallingEvents,
  WebSocketClass: WebSocketConstructor,
): Promise<Strategy> {
  const { createTopicStrategy, selfId } = await import("@trystero-p2p/core");
  let rootTopic: string | undefined;
  let lastWarningMs = Number.NEGATIVE_INFINITY;
  let isLeaving = false;
  const onStranger = () => {
    if (performance.now() - lastWarningMs < WARNING_PAUSE_MS) return;
    lastWarningMs = performance.now();
    events.onRefused(
      "Someone without this room's secret sent messages to it; they were ignored. (If it was a guest: the invitation they used is not the one of this room.)",
    );
  };
  const publish = (client: RelayClient, topic: string, text: string) => {
    // trystero takes 99 ms to leave; whoever still answers then is found again at once.
    if (!isLeaving) void seal(keys.sealKey, topic, text).then((sealed) => client.publish(topic, sealed));
  };
  const announce = () => {
    if (rootTopic) publish(client, rootTopic, JSON.stringify({ peerId: selfId }));
  };
  const client = openRelay(
    url,
    {
      onState(state, message) {
        events.onState(state, message);
        if (state === "open") announce();
      },
    },
    WebSocketClass,
  );
  const join = createTopicStrategy<RelayClient>({
    steadyAnnounceIntervalMs: ANNOUNCE_MS,
    init: () => client,
    subscribeTopic(relay, topic, onMessage, context) {
      rootTopic = context.rootTopic;
      // Opened one after the other, as they came: a candidate must not overtake its offer.
      let queue = Promise.resolve();
      return relay.subscribe(topic, (payload) => {
        queue = queue.then(async () => {
          const text = await unseal(keys.sealKey, topic, payload);
          if (text === undefined) return onStranger();
          const peerId = senderOf(text);
          if (!isLeaving && peerId !== selfId && gate.lets(peerId)) void onMessage(topic, text);
        });
      });
    },
    publishTopic(relay, topic, message) {
      publish(relay, topic, typeof message === "string" ? message : JSON.stringify(message));
    },
  });
  return {
    ...{ join, announce },
    quieten() {
      isLeaving = true;
    },
    close: client.close,
  };
}

/** trystero's reasons, for people. */
function sentenceOf(error: string): string {
  if (error.includes("after exchanging SDP"))
    return "A peer was found, but no direct connection to it came about: its network may need a STUN or TURN server (option iceServers).";
  if (error.includes("password")) return "Someone without this room's secret tried to come in.";
  return `A connection failed on its way in: ${error}`;
}

/**
 * Joins a room's signalling.
 * @throws {RoomError} where the strategy's package is missing.
 */
export async function enterSignalling(
  keys: RoomKeys,
  gate: Gate,
  options: SignallingOptions,
  events: SignallingEvents,
): Promise<Signalling> {
  const tracked = trackConnections(options.RtcPeerConnection);
  const config = {
    appId: APP_ID,
    password: keys.password,
    rtcConfig: options.rtcConfiguration,
    rtcPolyfill: tracked.Connection,
    relayConfig: { warnOnRelayFailure: false },
  };
  let strategy: Strategy;
  if ("relayUrl" in options.where) {
    strategy = await relayStrategy(options.where.relayUrl, keys, gate, events, options.WebSocketClass);
  } else {
    const nostr = await import("trystero").catch((error) => {
      throw new RoomError(`signalling by Nostr needs the package trystero: ${String(error)}`);
    });
    strategy = { join: nostr.joinRoom as JoinRoom, announce: () => {}, quieten: () => {}, close: () => {} };
    events.onState("open", "Meeting over public Nostr relays.");
  }
  const doors = new Set<string>();
  const timers = new Set<ReturnType<typeof setTimeout>>();
  const room: TrysteroRoom = strategy.join(config, keys.roomId, {
    onJoinError: ({ error }) => events.onRefused(sentenceOf(error)),
    // Over Nostr nobody is held back before this point.
    onPeerHandshake: async (peerId) => {
      if (!gate.lets(peerId)) throw new Error("not let in");
    },
  });
  const action = room.makeAction<string>("ringwise");
  action.onMessage = (text, { peerId }) => {
    if (typeof text === "string" && doors.has(peerId)) events.onDoorText(peerId, text);
  };
  function reannounce(): void {
    for (const delayMs of REANNOUNCE_MS) {
      const timer = setTimeout(() => {
        timers.delete(timer);
        strategy.announce();
      }, delayMs);
      timers.add(timer);
    }
  }
  room.onPeerJoin = (peerId) => {
    doors.add(peerId);
    events.onDoor(peerId);
  };
  room.onPeerLeave = (peerId) => {
    if (!doors.delete(peerId)) return;
    events.onDoorLost(peerId);
    reannounce();
  };
  const connectionOf = (peerId: string) => room.getPeers()[peerId];
  return {
    connectionOf,
    async send(peerId, text) {
      await action.send(text, { target: peerId });
    },
    dropDoor(peerId) {
      const connection = connectionOf(peerId);
      if (!connection) return;
      connection.close();
      // The platform is silent about a connection that this side closes; trystero listens for this event.
      connection.dispatchEvent(new Event("connectionstatechange"));
    },
    announce: strategy.announce,
    leave() {
      for (const timer of timers) clearTimeout(timer);
      strategy.quieten();
      room.onPeerJoin = null;
      room.onPeerLeave = null;
      // trystero says goodbye, waits 99 ms and lets go; what it keeps for a later room of the page is closed here.
      const finish = () => {
        strategy.close();
        tracked.closeAll();
      };
      room.leave().then(finish, finish);
    },
  };
}
