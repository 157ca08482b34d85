/** Names of parcels: checked, compared, and as text (the key of maps and what error messages say). */
import { OptionError } from "../errors.ts";
import type { ParcelKey, ParcelKind } from "./types.ts";

/** The byte that stands for each kind in a frame; 0 is "no parcel". */
export const PARCEL_KINDS: readonly ParcelKind[] = [
  "block",
  "query",
  "state",
  "ask",
  "answer",
  "page",
  "ids",
  "weights",
];

const WORDS = ["epoch", "op", "layer", "rank"] as const;

/** A key as text, the same for equal keys. */
export const keyText = (key: ParcelKey): string =>
  `${key.kind} epoch ${key.epoch} op ${key.op} layer ${key.layer} rank ${key.rank}`;

/** Whether a key belongs to an epoch that is over; epoch 0 never is. */
export const isStale = (key: ParcelKey, epoch: number): boolean => key.epoch !== 0 && key.epoch < epoch;

/** @throws {OptionError} where a field of the key is no 32-bit count, or its kind unknown. */
export function checkKey(name: string, key: ParcelKey): void {
  for (const word of WORDS)
    if (!Number.isInteger(key[word]) || key[word] < 0 || key[word] > 0xffffffff)
      throw new OptionError(`${name}: expected key.${word} to be an integer in 0..2^32-1, got ${key[word]}`);
  if (!PARCEL_KINDS.includes(key.kind))
    throw new OptionError(`${name}: expected key.kind to be one of ${PARCEL_KINDS.join(", ")}, got "${key.kind}"`);
}
