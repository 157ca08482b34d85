/**
 * One large parcel as it arrives: chunks straight into one buffer of its length, hashed segment by segment as they fill up,
 * compared with the hashes that its sender tells. Says what is missing; knows no frames.
 */
import { digestSegment, segmentCount } from "./digest.ts";
import { DIGEST_BYTES, GRANULE_BYTES, MAX_RANGES, SEGMENT_BYTES } from "./frame.ts";

const GRANULES_PER_SEGMENT = SEGMENT_BYTES / GRANULE_BYTES;

/** See the module's comment. */
export class Assembly {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Granules that are missing. */
  missing: number;
  /** Segments that had the wrong hash, ever. */
  damaged = 0;
  private readonly have: Uint8Array;
  /** Granules missing per segment. */
  private readonly gaps: Uint16Array;
  private readonly digests: (Uint8Array | undefined)[];
  private readonly verified: Uint8Array;
  private verifiedCount = 0;
  private hashing = 0;
  private expected: Uint8Array | undefined;
  private isClosed = false;

  constructor(
    readonly totalBytes: number,
    /** Called when a hash is there: look at {@link isWhole} and {@link isSettled} again. */
    private readonly onHashed: () => void,
  ) {
    this.bytes = new Uint8Array(totalBytes);
    this.missing = Math.ceil(totalBytes / GRANULE_BYTES);
    this.have = new Uint8Array(this.missing);
    const segments = segmentCount(totalBytes);
    this.gaps = Uint16Array.from({ length: segments }, (_, segment) =>
      Math.min(GRANULES_PER_SEGMENT, this.missing - segment * GRANULES_PER_SEGMENT),
    );
    this.digests = new Array<undefined>(segments).fill(undefined);
    this.verified = new Uint8Array(segments);
  }

  /** All there, every hash right. */
  get isWhole(): boolean {
    return this.verifiedCount === this.verified.length;
  }

  /** No hash is being computed: what is missing now stays so until more comes. */
  get isSettled(): boolean {
    return this.hashing === 0;
  }

  /** Whether the sender's hashes are here. */
  get hasDigests(): boolean {
    return this.expected !== undefined;
  }

  /** Takes a chunk, whole granules within the parcel. @returns false where all of it is there already. */
  add(offset: number, payload: Uint8Array): boolean {
    let isNew = false;
    for (let begin = 0; begin < payload.byteLength; begin += GRANULE_BYTES) {
      const granule = (offset + begin) / GRANULE_BYTES;
      if (this.have[granule]) continue;
      isNew = true;
      this.bytes.set(payload.subarray(begin, Math.min(payload.byteLength, begin + GRANULE_BYTES)), offset + begin);
      this.have[granule] = 1;
      this.missing--;
      const segment = Math.floor(granule / GRANULES_PER_SEGMENT);
      if (--this.gaps[segment]! === 0) this.hash(segment);
    }
    return isNew;
  }

  /** The sender's hashes; those that came before stand. */
  setDigests(expected: Uint8Array): void {
    this.expected ??= expected;
    this.verify();
  }

  /** Ranges that are missing, ascending, adjoining ones joined; not more than one nack holds. */
  missingRanges(): { begin: number; end: number }[] {
    const ranges: { begin: number; end: number }[] = [];
    for (let granule = 0; granule < this.have.length; granule++) {
      if (this.have[granule]) continue;
      const begin = granule * GRANULE_BYTES;
      const end = Math.min(this.totalBytes, begin + GRANULE_BYTES);
      const last = ranges.at(-1);
      if (last?.end === begin) last.end = end;
      else if (ranges.length === MAX_RANGES) break;
      else ranges.push({ begin, end });
    }
    return ranges;
  }

  /** Nothing more is looked at. */
  close(): void {
    this.isClosed = true;
  }

  private hash(segment: number): void {
    const begin = segment * SEGMENT_BYTES;
    this.hashing++;
    digestSegment(this.bytes.subarray(begin, begin + SEGMENT_BYTES)).then((digest) => {
      this.hashing--;
      if (this.isClosed) return;
      this.digests[segment] = digest;
      this.verify();
      this.onHashed();
    });
  }

  /** Compares what can be compared; a segment with a wrong hash is missing again. */
  private verify(): void {
    if (!this.expected) return;
    for (let segment = 0; segment < this.verified.length; segment++) {
      const digest = this.digests[segment];
      if (!digest || this.verified[segment]) continue;
      const at = segment * DIGEST_BYTES;
      if (digest.every((byte, index) => byte === this.expected![at + index])) {
        this.verified[segment] = 1;
        this.verifiedCount++;
      } else this.forget(segment);
    }
  }

  private forget(segment: number): void {
    const begin = segment * GRANULES_PER_SEGMENT;
    const end = Math.min(this.have.length, begin + GRANULES_PER_SEGMENT);
    this.have.fill(0, begin, end);
    this.gaps[segment] = end - begin;
    this.missing += end - begin;
    this.digests[segment] = undefined;
    this.damaged++;
  }
}
