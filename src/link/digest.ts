/**
 * Hashes of parcels: SHA-256, cut to 16 bytes, one per segment of 1 MiB. Both ends hash segments while others still travel,
 * so that the hash adds only the last segment's time, and a damaged parcel is asked for again in part. The browser hashes
 * on a thread of its own.
 */
import { DIGEST_BYTES, digestsBytes, SEGMENT_BYTES } from "./frame.ts";

/** Segments hashed at a time: each is copied by the browser meanwhile. */
const AT_A_TIME = 4;

/** Hash of one segment. The bytes are copied before this returns. */
export async function digestSegment(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes), 0, DIGEST_BYTES);
}

/** Number of segments of a parcel. */
export const segmentCount = (byteLength: number): number => Math.ceil(byteLength / SEGMENT_BYTES);

/** Hashes of all segments, one after the other. @param read gives bytes begin..end; may be asked for any order. */
export async function digestParcel(
  byteLength: number,
  read: (begin: number, end: number) => Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  const digests = new Uint8Array(digestsBytes(byteLength));
  let next = 0;
  const worker = async () => {
    for (let segment = next++; segment < segmentCount(byteLength); segment = next++) {
      const begin = segment * SEGMENT_BYTES;
      const digest = await digestSegment(read(begin, Math.min(byteLength, begin + SEGMENT_BYTES)));
      digests.set(digest, segment * DIGEST_BYTES);
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
  return digests;
}
