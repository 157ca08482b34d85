/**
 * The wire format: every message is one frame, a fixed header of 64 bytes (little endian) and a payload.
 *
 *      0 magic      u32   "RING"          32 sequence     u32   of ordered frames, from 1; heartbeat: the next one's
 *      4 version    u8                    36 acknowledged u32   the ordered frame that is expected next
 *      5 type       u8                    40 transfer     u32   the sender's number of the parcel; heartbeat: its stamp
 *      6 kind       u8    of the parcel   44 post         u32   the receiver's number of the `receive`
 *      7 code       u8    by type         48 offset       u32   of the chunk; end, nack: the round
 *      8 session    u32   the sender's    52 totalBytes   u32   of the parcel; credit: the most; end: the lanes
 *     12 toSession  u32   the receiver's  56 payloadBytes u32
 *     16 epoch, 20 op, 24 layer, 28 rank  60 check        u32   CRC-32 of all but itself and a chunk's payload
 *
 * The check tells damage from malice: a frame that fails it is dropped and asked for again; one that passes it and is out
 * of bounds was meant so. Chunks' payloads are covered by the parcel's hashes (digest.ts).
 */
import { PARCEL_KINDS } from "./parcel-key.ts";
import type { ParcelKey } from "./types.ts";

/** Bytes of a frame's header. */
export const HEADER_BYTES = 64;
/** Chunks begin at multiples of this and are multiples of it long, but for a parcel's last. */
export const GRANULE_BYTES = 16 * 1024;
/** What one hash covers. */
export const SEGMENT_BYTES = 1024 * 1024;
/** Bytes of a segment's hash: SHA-256, cut. */
export const DIGEST_BYTES = 16;
/** Largest parcel that goes in one frame, unasked. */
export const EAGER_BYTES = 64 * 1024 - HEADER_BYTES;
/** Longest message of any wire. */
export const MAX_MESSAGE_BYTES = 1024 * 1024 + HEADER_BYTES;
/** Every wire must take messages of this length. */
export const MIN_MESSAGE_BYTES = HEADER_BYTES + EAGER_BYTES;
/** Ranges that one nack names at most; what is missing beyond is asked for by the next. */
export const MAX_RANGES = 512;
/** Longest reason of a goodbye, in bytes of UTF-8. */
export const MAX_REASON_BYTES = 1024;

const MAGIC = 0x474e4952;
const VERSION = 1;
/** SEGMENT_BYTES and DIGEST_BYTES let the hashes of this much fit into one frame of the shortest wire. */
const MAX_PARCEL_BYTES = Math.floor(EAGER_BYTES / DIGEST_BYTES) * SEGMENT_BYTES;
/** Longest parcel, in bytes: what `totalBytes` can say, and whose hashes fit into one frame. */
export const LONGEST_PARCEL_BYTES = Math.min(0xffffffff, MAX_PARCEL_BYTES);

/**
 * Types of frames. Ordered (sequence-numbered, each once, whatever happens to wires): control, credit, cancel, trailer, ack,
 * nack, eager, refused, abort. Not ordered: chunk, end (repaired by nack), heartbeat, echo, received, goodbye.
 */
export const FRAME = {
  /** A piece of a control message; code 1: its last. */
  control: 1,
  /** The receiver awaits `key` as `post`, at most totalBytes. */
  credit: 2,
  /** The receiver no longer awaits `post`. */
  cancel: 3,
  /** Hashes of the parcel's segments. */
  trailer: 4,
  /** The parcel has come, whole (as `post`, 0 where it waits unclaimed). */
  ack: 5,
  /** These ranges are missing after round `offset`: pairs of offset and length, u32. */
  nack: 6,
  /** A whole parcel, small. */
  eager: 7,
  /** An eager parcel was not taken. code 0: no room, send it when asked; 1: its epoch is over. */
  refused: 8,
  /** The sender gives the parcel up. */
  abort: 9,
  /** A piece of a parcel. */
  chunk: 10,
  /** All chunks of round `offset` went out before this one on this lane (code), one of totalBytes lanes. */
  end: 11,
  /** I live; answer with an echo. */
  heartbeat: 12,
  echo: 13,
  /** Only tells `acknowledged`; code 1: what comes next has been lost, send it again. */
  received: 14,
  /** The link is closed; the payload says why. */
  goodbye: 15,
} as const;

/** A value of {@link FRAME}. */
export type FrameType = (typeof FRAME)[keyof typeof FRAME];

const NAMES = new Map<number, string>(Object.entries(FRAME).map(([name, type]) => [type, name]));
/** Types that go through the ordered channel. */
export const isOrdered = (type: FrameType): boolean => type <= FRAME.abort;
const hasKey = (type: FrameType) => type >= FRAME.credit && type <= FRAME.end;

/** A frame as its sender fills it in. */
export interface FrameFields {
  type: FrameType;
  code?: number;
  key?: ParcelKey;
  transfer?: number;
  post?: number;
  offset?: number;
  totalBytes?: number;
  payload?: Uint8Array;
}

/** What the link adds to every frame. */
export interface FrameEnvelope {
  session: number;
  toSession: number;
  sequence: number;
  acknowledged: number;
}

/** A frame that was read, every field of it within its bounds. */
export interface Frame extends FrameEnvelope {
  type: FrameType;
  code: number;
  /** Absent for types that name no parcel. */
  key: ParcelKey | undefined;
  transfer: number;
  post: number;
  offset: number;
  totalBytes: number;
  /** A view of the message. */
  payload: Uint8Array<ArrayBuffer>;
}

/** Why a message is no frame. Damage is dropped and repaired; the rest is the sender's doing. */
export class FrameError extends Error {
  override name = "FrameError";
  constructor(
    message: string,
    readonly isDamage: boolean,
  ) {
    super(message);
  }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let crc = index;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

function crc32(bytes: Uint8Array, begin: number, end: number, before = 0xffffffff): number {
  let crc = before;
  for (let index = begin; index < end; index++) crc = CRC_TABLE[(crc ^ bytes[index]!) & 255]! ^ (crc >>> 8);
  return crc;
}

/** CRC-32 (IEEE) of the header without its check, and of the payload where that is no chunk's. */
function checkOf(message: Uint8Array, type: number): number {
  const header = crc32(message, 0, HEADER_BYTES - 4);
  return ~(type === FRAME.chunk ? header : crc32(message, HEADER_BYTES, message.byteLength, header)) >>> 0;
}

/** Bytes of the hashes of a parcel. */
export const digestsBytes = (totalBytes: number): number => Math.ceil(totalBytes / SEGMENT_BYTES) * DIGEST_BYTES;

/** A new message; its buffer belongs to whoever sends it. */
export function encodeFrame(fields: FrameFields, envelope: FrameEnvelope): Uint8Array<ArrayBuffer> {
  const payloadBytes = fields.payload?.byteLength ?? 0;
  const message = new Uint8Array(HEADER_BYTES + payloadBytes);
  if (fields.payload) message.set(fields.payload, HEADER_BYTES);
  writeHeader(message, fields, envelope);
  return message;
}

/** Fills in the header of a message whose payload is in place already. */
export function writeHeader(message: Uint8Array<ArrayBuffer>, fields: FrameFields, envelope: FrameEnvelope): void {
  const view = new DataView(message.buffer, message.byteOffset, HEADER_BYTES);
  const { key } = fields;
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, VERSION);
  view.setUint8(5, fields.type);
  view.setUint8(6, key ? PARCEL_KINDS.indexOf(key.kind) + 1 : 0);
  view.setUint8(7, fields.code ?? 0);
  view.setUint32(8, envelope.session, true);
  view.setUint32(12, envelope.toSession, true);
  view.setUint32(16, key?.epoch ?? 0, true);
  view.setUint32(20, key?.op ?? 0, true);
  view.setUint32(24, key?.layer ?? 0, true);
  view.setUint32(28, key?.rank ?? 0, true);
  view.setUint32(32, envelope.sequence, true);
  view.setUint32(36, envelope.acknowledged, true);
  view.setUint32(40, fields.transfer ?? 0, true);
  view.setUint32(44, fields.post ?? 0, true);
  view.setUint32(48, fields.offset ?? 0, true);
  view.setUint32(52, fields.totalBytes ?? 0, true);
  view.setUint32(56, message.byteLength - HEADER_BYTES, true);
  view.setUint32(60, checkOf(message, fields.type), true);
}

function damageUnless(condition: boolean, message: string): asserts condition {
  if (!condition) throw new FrameError(message, true);
}

function boundUnless(condition: boolean, frame: Frame, expected: string): asserts condition {
  if (!condition)
    throw new FrameError(
      `sent a frame "${NAMES.get(frame.type)}" with ${expected} (offset ${frame.offset}, ` +
        `total ${frame.totalBytes}, payload ${frame.payload.byteLength}, code ${frame.code})`,
      false,
    );
}

/**
 * Reads a message; its payload stays where it is.
 * @throws {FrameError} where it is no frame, or a field is out of bounds.
 */
export function decodeFrame(message: Uint8Array<ArrayBuffer>): Frame {
  damageUnless(message.byteLength >= HEADER_BYTES, `a message of ${message.byteLength} bytes is shorter than a header`);
  damageUnless(message.byteLength <= MAX_MESSAGE_BYTES, `a message of ${message.byteLength} bytes is too long`);
  const view = new DataView(message.buffer, message.byteOffset, HEADER_BYTES);
  const type = view.getUint8(5) as FrameType;
  damageUnless(view.getUint32(0, true) === MAGIC, "a message does not begin with the magic number");
  damageUnless(view.getUint32(56, true) === message.byteLength - HEADER_BYTES, "a frame has not its own length");
  damageUnless(view.getUint32(60, true) === checkOf(message, type), "a frame fails its check");
  if (view.getUint8(4) !== VERSION)
    throw new FrameError(`speaks version ${view.getUint8(4)} of the protocol, expected ${VERSION}`, false);
  if (!NAMES.has(type)) throw new FrameError(`sent a frame of unknown type ${type}`, false);
  const kind = view.getUint8(6);
  const frame: Frame = {
    type,
    code: view.getUint8(7),
    session: view.getUint32(8, true),
    toSession: view.getUint32(12, true),
    key: undefined,
    sequence: view.getUint32(32, true),
    acknowledged: view.getUint32(36, true),
    transfer: view.getUint32(40, true),
    post: view.getUint32(44, true),
    offset: view.getUint32(48, true),
    totalBytes: view.getUint32(52, true),
    payload: message.subarray(HEADER_BYTES),
  };
  boundUnless(hasKey(type) ? kind >= 1 && kind <= PARCEL_KINDS.length : kind === 0, frame, `parcel kind ${kind}`);
  if (hasKey(type))
    frame.key = {
      epoch: view.getUint32(16, true),
      op: view.getUint32(20, true),
      layer: view.getUint32(24, true),
      rank: view.getUint32(28, true),
      kind: PARCEL_KINDS[kind - 1]!,
    };
  boundUnless(frame.session !== 0, frame, "no session");
  checkBounds(frame);
  return frame;
}

/** What each type may carry. */
function checkBounds(frame: Frame): void {
  const payloadBytes = frame.payload.byteLength;
  switch (frame.type) {
    case FRAME.control:
      boundUnless(
        frame.code === 1 ? payloadBytes <= GRANULE_BYTES : frame.code === 0 && payloadBytes === GRANULE_BYTES,
        frame,
        "another length than that of a piece",
      );
      return;
    case FRAME.eager:
      boundUnless(payloadBytes <= EAGER_BYTES, frame, `more than ${EAGER_BYTES} bytes`);
      boundUnless(frame.totalBytes === payloadBytes, frame, "a length that is not its own");
      return;
    case FRAME.chunk:
      boundUnless(frame.totalBytes <= LONGEST_PARCEL_BYTES && payloadBytes > 0, frame, "an impossible length");
      boundUnless(frame.offset + payloadBytes <= frame.totalBytes, frame, "bytes beyond its parcel's end");
      boundUnless(
        frame.offset % GRANULE_BYTES === 0 &&
          (payloadBytes % GRANULE_BYTES === 0 || frame.offset + payloadBytes === frame.totalBytes),
        frame,
        `ends that are no multiples of ${GRANULE_BYTES}`,
      );
      return;
    case FRAME.trailer:
      boundUnless(frame.totalBytes <= LONGEST_PARCEL_BYTES && frame.totalBytes > 0, frame, "an impossible length");
      boundUnless(payloadBytes === digestsBytes(frame.totalBytes), frame, "a wrong number of hashes");
      return;
    case FRAME.nack:
      boundUnless(payloadBytes > 0 && payloadBytes % 8 === 0, frame, "no whole ranges");
      boundUnless(payloadBytes <= MAX_RANGES * 8, frame, `more than ${MAX_RANGES} ranges`);
      return;
    case FRAME.goodbye:
      boundUnless(payloadBytes <= MAX_REASON_BYTES, frame, `more than ${MAX_REASON_BYTES} bytes`);
      return;
    case FRAME.end:
      boundUnless(frame.totalBytes >= 1 && frame.totalBytes <= 32, frame, "an impossible number of lanes");
      boundUnless(frame.code < frame.totalBytes && payloadBytes === 0, frame, "an impossible lane");
      return;
    default:
      boundUnless(payloadBytes === 0, frame, "a payload");
  }
}
