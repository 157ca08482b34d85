/** Two ends of a link in memory, by the contract: parcels meet by their keys, whole. For rings within one page. */
import { LinkError } from "../../src/errors.ts";
import type { ControlMessage, Link, Parcel, ParcelKey, Wire } from "../../src/link/types.ts";
import { untilAborted } from "../../src/ring/abort.ts";

/** A promise and what settles it. */
interface Deferred<T> {
  promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: unknown): void;
}

/** A parcel on its way: bytes from one side, the place for them from the other. */
interface Meeting {
  parcel: Deferred<Parcel>;
  taken: Deferred<void>;
}

const nameOf = ({ epoch, op, layer, kind, rank }: ParcelKey) => [epoch, op, layer, kind, rank].join("/");

function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {});
  return { promise, resolve, reject };
}

class MemoryLink implements Link {
  readonly kind = "memory";
  readonly counters = {
    ...{ sentBytes: 0, receivedBytes: 0, sentParcels: 0, receivedParcels: 0 },
    ...{ stale: 0, duplicate: 0, unexpected: 0, corrupt: 0, resent: 0 },
  };
  readonly bytesPerSecond = undefined;
  readonly roundTripMs = undefined;
  readonly lastHeardMs = 0;
  readonly hasWires = true;
  isClosed = false;
  onControl: ((message: ControlMessage) => void) | undefined;
  onViolation: ((reason: string) => void) | undefined;
  onClose: ((reason: string) => void) | undefined;
  onWiresLost: (() => void) | undefined;
  other!: MemoryLink;
  private readonly incoming = new Map<string, Meeting>();

  constructor(
    readonly peerId: string,
    private epoch: number,
  ) {}

  attach(_wires: readonly Wire[]): void {}

  setEpoch(epoch: number): void {
    this.epoch = epoch;
  }

  sendControl(message: ControlMessage): void {
    this.other.onControl?.(message);
  }

  async send(
    key: ParcelKey,
    parts: readonly (Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>)[],
    byteLength: number,
    signal: AbortSignal,
  ): Promise<void> {
    this.check();
    const startMs = performance.now();
    const arrived = await untilAborted(Promise.all(parts), signal);
    const bytes = new Uint8Array(byteLength);
    let at = 0;
    for (const part of arrived) {
      bytes.set(part, at);
      at += part.byteLength;
    }
    if (at !== byteLength) throw new Error(`send ${nameOf(key)}: ${byteLength} bytes announced, ${at} given`);
    this.check();
    this.counters.sentBytes += byteLength;
    const meeting = this.other.meeting(key);
    meeting.parcel.resolve({ key, bytes, startMs, endMs: performance.now() });
    await untilAborted(meeting.taken.promise, signal);
  }

  async receive(key: ParcelKey, maxBytes: number, signal: AbortSignal): Promise<Parcel> {
    this.check();
    const meeting = this.meeting(key);
    const parcel = await untilAborted(meeting.parcel.promise, signal);
    this.incoming.delete(nameOf(key));
    if (parcel.bytes.byteLength > maxBytes)
      throw new LinkError(`receive: at most ${maxBytes} bytes, got ${parcel.bytes.byteLength}`, "violation");
    this.counters.receivedBytes += parcel.bytes.byteLength;
    meeting.taken.resolve();
    return parcel;
  }

  close(reason: string): void {
    for (const end of [this, this.other]) {
      if (end.isClosed) continue;
      end.isClosed = true;
      for (const { parcel, taken } of end.incoming.values())
        for (const one of [parcel, taken]) one.reject(new LinkError(`closed: ${reason}`, "closed"));
      end.onClose?.(reason);
    }
  }

  private check(): void {
    if (this.isClosed) throw new LinkError("expected an open link, got a closed one", "closed");
  }

  private meeting(key: ParcelKey): Meeting {
    if (key.epoch < this.epoch) throw new LinkError(`parcel ${nameOf(key)} is of an earlier epoch`, "epoch");
    const name = nameOf(key);
    let meeting = this.incoming.get(name);
    if (!meeting) this.incoming.set(name, (meeting = { parcel: deferred(), taken: deferred() }));
    return meeting;
  }
}

/** Both ends: the first's other end is `theirs`, the second's is `mine`. */
export function linkPair(mine: string, theirs: string, epoch: number): [Link, Link] {
  const a = new MemoryLink(theirs, epoch);
  const b = new MemoryLink(mine, epoch);
  a.other = b;
  b.other = a;
  return [a, b];
}
