/** Control messages about a model's files, and their checks. Each has a type that begins with "weights". */
import type { ControlMessage } from "../link/types.ts";
import { type Check, integer, list, Misfit, object, optional, text } from "./message-checks.ts";
import { isModelFile, MAX_FILE_BYTES } from "./weights-manifest.ts";

/** Hashes that one message asks for: 64 digits each. */
export const MOST_HASHES = 64;

const u32 = integer(0, 2 ** 32 - 1);
const piece = integer(0, 2 ** 24);
const file: Check<string> = (value, name) => {
  const checked = text(160, 1)(value, name);
  if (!isModelFile(checked)) throw new Misfit(`expected ${name} to be the plain name of a model's file, got another`);
  return checked;
};
const hash: Check<string> = (value, name) => {
  const checked = text(64, 64)(value, name);
  if (!/^[0-9a-f]{64}$/.test(checked)) throw new Misfit(`expected ${name} to be 64 hexadecimal digits, got others`);
  return checked;
};
const peerId = text(200, 1);

const FIELDS = {
  /** From the leader: whom to get pieces from: one who loads just ahead, and those who have everything. */
  weightsSources: object<{ ahead?: string | undefined; ready: string[] }>({
    ahead: optional(peerId),
    ready: list(peerId, 64),
  }),
  /** To the leader: how long is the file, what are the hashes of these pieces? */
  weightsAsk: object<{ file: string; first: number; count: number }>({
    file,
    first: piece,
    count: integer(1, MOST_HASHES),
  }),
  /** The answer: no size where the file is absent; no hashes past its end. */
  weightsHashes: object<{ file: string; first: number; size?: number | undefined; hashes: string[] }>({
    file,
    first: piece,
    size: optional(integer(0, MAX_FILE_BYTES)),
    hashes: list(hash, MOST_HASHES),
  }),
  /** Send me this piece, as the parcel of this ticket. */
  weightsWant: object<{ file: string; piece: number; ticket: number }>({ file, piece, ticket: u32 }),
  /** I no longer want it. */
  weightsCancel: object<{ ticket: number }>({ ticket: u32 }),
  /** I cannot give it. */
  weightsNone: object<{ ticket: number }>({ ticket: u32 }),
} as const;

type WeightsType = keyof typeof FIELDS;

/** A checked message about weights. */
export type WeightsMessage<T extends WeightsType = WeightsType> = {
  [K in T]: { type: K } & ReturnType<(typeof FIELDS)[K]>;
}[T];

/** The message, or a sentence that says how it breaks the protocol. Never throws. */
export function parseWeightsMessage(raw: ControlMessage): WeightsMessage | string {
  if (!Object.hasOwn(FIELDS, raw.type)) return "parseWeightsMessage: expected a known type of message, got another";
  const type = raw.type as WeightsType;
  try {
    return { type, ...FIELDS[type](raw, "message") } as WeightsMessage;
  } catch (error) {
    if (error instanceof Misfit) return `parseWeightsMessage: ${type}: ${error.message}`;
    return `parseWeightsMessage: ${type}: expected a plain message, got one that cannot be read`;
  }
}
