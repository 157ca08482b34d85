/**
 * Every control message between peers, and the parser that checks all of it: types, lengths, ranges, counts. What a peer
 * sends is acted upon only in the form that comes out of {@link parseMessage}.
 */
import type { ControlMessage } from "../link/types.ts";
import type { RankStep } from "../ring/rank-types.ts";
import type { TokenRange } from "../ring/types.ts";
import {
  type Check,
  flag,
  flatRanges,
  integer,
  list,
  MAX_POSITION,
  Misfit,
  number,
  object,
  oneOf,
  optional,
  ranges,
  text,
} from "./message-checks.ts";
import type { PeerModelDescription } from "./types.ts";

/** Version of the protocol; peers of another are told so and left alone. */
export const PROTOCOL = 1;

/** Ids per `text` message: well below a control message's 1 MiB. */
export const TEXT_CHUNK = 32 * 1024;

const MAX_TOKENS = MAX_POSITION;
const peerId = text(200, 1);
const epoch = integer(0, 2 ** 32 - 1);
const op = integer(0, 2 ** 31 - 1);
const tokens = integer(0, MAX_TOKENS);
const tokenId = integer(0, 2 ** 31 - 1);
const bytes = number(0, Number.MAX_SAFE_INTEGER);
const milliseconds = number(0, 1e12);
const rate = number(0, 1e18);
const sentence = text(2000);
const peerIds = list(peerId, 64);
const ranksOf = <T>(item: Check<T>) => list(item, 64, 1);

/** A rank of an epoch: who it is, and its seat (see epoch.ts). */
export interface Seat {
  id: string;
  seat: number;
}
const seat: Check<Seat> = object<Seat>({ id: peerId, seat: integer(0, 63) });

/** What everyone must know of a run to carry it on. */
export interface RunInfo {
  id: string;
  startedBy: string;
  promptLength: number;
  maxNewTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  stopIds: number[];
  /** Tokens per rank and operation of prefill. */
  chunkTokens: number;
  layout: "contiguous" | "zigzag" | "striped";
  wireDtype: "f32" | "f16";
  replicas: number;
  /** The prompt is text that the answer goes on with (and not a conversation). */
  isContinuation: boolean;
}
const runInfo: Check<RunInfo> = object<RunInfo>({
  id: text(100, 1),
  startedBy: peerId,
  promptLength: integer(1, MAX_TOKENS),
  maxNewTokens: tokens,
  temperature: number(0, 1e6),
  topP: number(0, 1),
  topK: tokens,
  seed: integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  stopIds: list(tokenId, 4096),
  chunkTokens: integer(1, MAX_TOKENS),
  layout: oneOf("contiguous", "zigzag", "striped"),
  wireDtype: oneOf("f32", "f16"),
  replicas: integer(0, 1),
  isContinuation: flag,
});

const model: Check<PeerModelDescription> = object<PeerModelDescription>({
  name: text(500, 1),
  source: optional(text(2000, 1)),
  fingerprint: text(100, 1),
});

/** Figures of one rank in one operation. */
export interface OpFigures {
  computeMs: number;
  transferMs: number;
  waitMs: number;
  multiplyAdds: number;
  sentBytes: number;
  receivedBytes: number;
  gpuBytes: number;
  peakGpuBytes: number;
  heldTokens: number;
  timeMs: number;
  bytesPerSecond?: number;
}
const figures: Check<OpFigures> = object<OpFigures>({
  computeMs: milliseconds,
  transferMs: milliseconds,
  waitMs: milliseconds,
  multiplyAdds: number(0, 1e30),
  sentBytes: bytes,
  receivedBytes: bytes,
  gpuBytes: bytes,
  peakGpuBytes: bytes,
  heldTokens: tokens,
  timeMs: milliseconds,
  bytesPerSecond: optional(rate) as Check<number>,
});

const step: Check<RankStep> = object<RankStep>({
  step: integer(0, 4096),
  rank: integer(0, 63),
  kvRank: integer(0, 63),
  isSkipped: flag,
  queryTokens: tokens,
  kvTokens: tokens,
  computeMs: milliseconds,
  transferMs: milliseconds,
  waitMs: milliseconds,
  startMs: milliseconds,
  rotation: oneOf("keyValue", "query"),
  queryRank: integer(0, 63),
  receivedBytes: bytes,
  multiplyAdds: number(0, 1e30),
});

const memberState = oneOf("asking", "loading", "ready", "working");

/** Each message's fields, by type. */
const FIELDS = {
  /** First on every link, and again when a peer begins anew (a higher incarnation). */
  hello: object<{ protocol: number; name: string; adapterName: string; memoryBytes: number; incarnation: number }>({
    protocol: integer(0, 1e6),
    name: text(200),
    adapterName: text(500),
    memoryBytes: bytes,
    incarnation: integer(0, 1e9),
  }),
  /** How a peer is doing: on every change and once a second, to everyone. */
  status: object<{
    state: "asking" | "loading" | "ready" | "working";
    epoch: number;
    leaderId?: string | undefined;
    incarnation: number;
    fingerprint?: string | undefined;
    capacityTokens: number;
    usedBytes: number;
    heldTokens: number;
    multiplyAddsPerSecond?: number | undefined;
    linked: string[];
    adapterName: string;
  }>({
    state: memberState,
    epoch,
    leaderId: optional(peerId),
    incarnation: integer(0, 1e9),
    fingerprint: optional(text(100, 1)),
    capacityTokens: tokens,
    usedBytes: bytes,
    heldTokens: tokens,
    multiplyAddsPerSecond: optional(rate),
    linked: peerIds,
    adapterName: text(500),
  }),
  /** "May I come in?", to the leader, until it answers. */
  ask: object<{ incarnation: number }>({ incarnation: integer(0, 1e9) }),
  admit: object<{ model: PeerModelDescription }>({ model }),
  refuse: object<{ reason: string }>({ reason: sentence }),
  /** A new epoch: everyone stops, forgets what is not committed, and answers `present`. */
  rollCall: object<{
    epoch: number;
    ranks: Seat[];
    reason: string;
    run?: RunInfo | undefined;
    /** The run has ended: told for those who may have missed its end. */
    isOver: boolean;
    textLength: number;
  }>({ epoch, ranks: ranksOf(seat), reason: sentence, run: optional(runInfo), isOver: flag, textLength: tokens }),
  present: object<{
    epoch: number;
    held: TokenRange[];
    capacityTokens: number;
    /** It took part in the run before. */
    isKnown: boolean;
    textLength: number;
    tail: number[];
    unreachable: string[];
  }>({
    epoch,
    held: ranges,
    capacityTokens: tokens,
    isKnown: flag,
    textLength: tokens,
    tail: list(tokenId, TEXT_CHUNK),
    unreachable: peerIds,
  }),
  /** "There is a higher epoch than yours." */
  stale: object<{ epoch: number }>({ epoch }),
  /** Ids of the run's text from `start` on. */
  text: object<{ run: string; start: number; ids: number[] }>({
    run: text(100, 1),
    start: tokens,
    ids: list(tokenId, TEXT_CHUNK),
  }),
  /** The roll call is over: this is what every rank holds. */
  begin: object<{ epoch: number; held: TokenRange[][] }>({ epoch, held: ranksOf(ranges) }),
  forward: object<{
    epoch: number;
    op: number;
    tokens: TokenRange[][];
    rotation: "keyValue" | "query";
    ropeLength: number;
  }>({ epoch, op, tokens: ranksOf(ranges), rotation: oneOf("keyValue", "query"), ropeLength: tokens }),
  /** The token at `position` is read; its K/V are kept by the rank `keeper`. */
  decode: object<{ epoch: number; op: number; position: number; id: number; keeper: number }>({
    epoch,
    op,
    position: tokens,
    id: tokenId,
    keeper: integer(0, 63),
  }),
  /** K/V of `tokens` go from one rank to another. */
  move: object<{ epoch: number; op: number; from: number; to: number; tokens: TokenRange[] }>({
    epoch,
    op,
    from: integer(0, 63),
    to: integer(0, 63),
    tokens: ranges,
  }),
  done: object<{ epoch: number; op: number; figures: OpFigures }>({ epoch, op, figures }),
  failed: object<{ epoch: number; op: number; why: "link" | "memory" | "device" | "other"; message: string }>({
    epoch,
    op,
    why: oneOf("link", "memory", "device", "other"),
    message: sentence,
  }),
  /** For those who watch: may be left out. */
  steps: object<{ layer: number; layerCount: number; steps: RankStep[] }>({
    layer: integer(0, 4096),
    layerCount: integer(1, 4096),
    steps: list(step, 256),
  }),
  prefill: object<{ doneTokens: number; totalTokens: number; tokensPerSecond: number; secondsLeft: number }>({
    doneTokens: tokens,
    totalTokens: tokens,
    tokensPerSecond: rate,
    secondsLeft: milliseconds,
  }),
  recovering: object<{ doneTokens: number; totalTokens: number; message: string }>({
    doneTokens: tokens,
    totalTokens: tokens,
    message: sentence,
  }),
  recovered: object<{ tokens: number; milliseconds: number; message: string }>({
    tokens,
    milliseconds,
    message: sentence,
  }),
  /** The run is over; the ids of its text from `start` on. */
  end: object<{
    run: string;
    start: number;
    ids: number[];
    stopReason: "maxNewTokens" | "stopId" | "aborted" | "failed";
    message: string;
  }>({
    run: text(100, 1),
    start: tokens,
    ids: list(tokenId, TEXT_CHUNK),
    stopReason: oneOf("maxNewTokens", "stopId", "aborted", "failed"),
    message: sentence,
  }),
  /** To the leader: I no longer hear this rank. */
  lost: object<{ peerId: string }>({ peerId }),
  /** From the leader: the ring went on without you. */
  dropped: object<{ epoch: number; reason: string }>({ epoch, reason: sentence }),
  /** From the leader: go, and do not come back. */
  removed: object<{ reason: string }>({ reason: sentence }),
  /** To the leader: end the run. */
  stop: object<Record<never, never>>({}),
  goodbye: object<{ reason: string }>({ reason: sentence }),
} as const;

/** The types of messages. */
export type MessageType = keyof typeof FIELDS;

type FieldsOf<T extends MessageType> = ReturnType<(typeof FIELDS)[T]>;

/** A checked message. */
export type PeerMessage<T extends MessageType = MessageType> = { [K in T]: { type: K } & FieldsOf<K> }[T];

/** What came is a message, or breaks the protocol: a sentence that says how. */
export type Parsed = { message: PeerMessage; problem?: undefined } | { message?: undefined; problem: string };

/** Checks a control message to the last field. Never throws. */
export function parseMessage(raw: ControlMessage): Parsed {
  try {
    const { type } = raw;
    if (typeof type !== "string" || !Object.hasOwn(FIELDS, type))
      return {
        problem: `parseMessage: expected a known type of message, got ${JSON.stringify(String(type).slice(0, 40))}`,
      };
    const fields = FIELDS[type as MessageType](raw, "message");
    return { message: { type, ...fields } as PeerMessage };
  } catch (error) {
    if (error instanceof Misfit) return { problem: `parseMessage: ${String(raw.type).slice(0, 40)}: ${error.message}` };
    return { problem: `parseMessage: expected a plain message, got one that cannot be read` };
  }
}

/** A message as it goes onto the wire: ranges flat. */
export function wireMessage(message: PeerMessage): ControlMessage {
  switch (message.type) {
    case "present":
      return { ...message, held: flatRanges(message.held) };
    case "begin":
      return { ...message, held: message.held.map(flatRanges) };
    case "forward":
      return { ...message, tokens: message.tokens.map(flatRanges) };
    case "move":
      return { ...message, tokens: flatRanges(message.tokens) };
    default:
      return { ...message };
  }
}
