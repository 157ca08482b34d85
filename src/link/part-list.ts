/** The bytes of a parcel that is being sent: parts in a row, some of them still on their way from the GPU. */
import { OptionError } from "../errors.ts";

/** See the module's comment. */
export class PartList {
  /** Bytes from the beginning that are here. */
  available = 0;
  /** Resolves when all are. Rejects as a part does, or where they are not `byteLength` bytes. */
  readonly whole: Promise<void>;
  private readonly parts: { begin: number; bytes: Uint8Array<ArrayBuffer> }[] = [];

  constructor(
    parts: readonly (Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>)[],
    readonly byteLength: number,
    /** Called whenever more is available, but for what is at once. */
    onAvailable: () => void,
  ) {
    let ready = 0;
    while (ready < parts.length && parts[ready] instanceof Uint8Array)
      this.add(parts[ready++] as Uint8Array<ArrayBuffer>);
    this.whole = this.collect(parts.slice(ready), onAvailable);
    // Whoever waits for it sees it fail.
    this.whole.catch(() => {});
  }

  /** Bytes begin..end, which must be available: a view where they lie in one part, else a copy. */
  read(begin: number, end: number): Uint8Array<ArrayBuffer> {
    const first = this.parts.find((part) => begin < part.begin + part.bytes.byteLength);
    if (first && end <= first.begin + first.bytes.byteLength)
      return first.bytes.subarray(begin - first.begin, end - first.begin);
    const copy = new Uint8Array(end - begin);
    this.copy(begin, copy);
    return copy;
  }

  /** Fills `target` with the bytes from `begin` on, which must be available. */
  copy(begin: number, target: Uint8Array): void {
    const end = begin + target.byteLength;
    for (const part of this.parts) {
      const from = Math.max(begin, part.begin);
      const to = Math.min(end, part.begin + part.bytes.byteLength);
      if (from < to) target.set(part.bytes.subarray(from - part.begin, to - part.begin), from - begin);
    }
  }

  private add(bytes: Uint8Array<ArrayBuffer>): void {
    if (this.available + bytes.byteLength > this.byteLength) throw this.mismatch(this.available + bytes.byteLength);
    this.parts.push({ begin: this.available, bytes });
    this.available += bytes.byteLength;
  }

  private async collect(
    parts: readonly (Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>)[],
    onAvailable: () => void,
  ): Promise<void> {
    // A later part may fail while an earlier one is awaited.
    for (const part of parts) if (!(part instanceof Uint8Array)) part.catch(() => {});
    for (const part of parts) {
      this.add(await part);
      if (this.available < this.byteLength) onAvailable();
    }
    if (this.available !== this.byteLength) throw this.mismatch(this.available);
    if (parts.length > 0) onAvailable();
  }

  private mismatch(came: number): OptionError {
    return new OptionError(`send: expected parts of ${this.byteLength} bytes together, got ${came}`);
  }
}
