/**
 * One end of a link as the conformance suite drives it: the same commands whether it lives here or in a worker. Bytes are
 * made from seeds, so that only the seed has to travel beside the link.
 */
import { type CreateLinkOptions, createLink, type OwnLink } from "../src/link/link.ts";
import { type ThrottleOptions, throttle } from "../src/link/throttle.ts";
import type { ControlMessage, LinkCounters, ParcelKey, Wire } from "../src/link/types.ts";
import { type WireOrigin, wiresFrom } from "../src/link/wires.ts";

/** Bytes that a seed stands for. */
export function seededBytes(seed: number, byteLength: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(byteLength / 4));
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return new Uint8Array(words.buffer, 0, byteLength);
}

function isEqual(one: Uint8Array<ArrayBuffer>, other: Uint8Array<ArrayBuffer>): boolean {
  if (one.byteLength !== other.byteLength || one.byteOffset % 4 !== 0) return false;
  const words = Math.floor(one.byteLength / 4);
  const [left, right] = [one, other].map(({ buffer, byteOffset }) => new Uint32Array(buffer, byteOffset, words));
  for (let index = 0; index < words; index++) if (left![index] !== right![index]) return false;
  for (let index = words * 4; index < one.byteLength; index++) if (one[index] !== other[index]) return false;
  return true;
}

/** What an end tells of itself. */
export interface EndStatus {
  counters: LinkCounters;
  isClosed: boolean;
  closeReason: string | undefined;
  violation: string | undefined;
  hasWires: boolean;
  wiresLost: number;
  heldBytes: number;
  kind: string;
  roundTripMs: number | undefined;
  bytesPerSecond: number | undefined;
  heardAgoMs: number;
  controls: ControlMessage[];
  /** Most bytes that waited in one wire when more was sent, and most that the link held. */
  peakBufferedBytes: number;
  peakHeldBytes: number;
}

/** How a failed operation ended; errors do not travel between threads as they are. */
export interface Failure {
  name: string;
  message: string;
  why: string | undefined;
}

/** How a parcel came. */
export type Outcome = { ok: true; byteLength: number; isRight: boolean } | { ok: false; failure: Failure };

/** What a parcel is sent with. */
export interface SendCommand {
  operation: number;
  key: ParcelKey;
  seed: number;
  byteLength: number;
  /** Lengths of its parts; a negative one comes later, when {@link End.provide} is called. Default: one part. */
  parts?: readonly number[];
}

/** Commands to an end. */
export interface End {
  send(command: SendCommand): Promise<Outcome>;
  /** Sends the parts that were held back (as bytes, or as a failure). */
  provide(operation: number, isFailure?: boolean): Promise<void>;
  receive(operation: number, key: ParcelKey, maxBytes: number, seed: number): Promise<Outcome>;
  abort(operation: number): Promise<void>;
  sendControl(messages: readonly ControlMessage[]): Promise<Failure | undefined>;
  setEpoch(epoch: number): Promise<void>;
  status(): Promise<EndStatus>;
  close(reason: string): Promise<void>;
  attach(origin: WireOrigin, slowly?: ThrottleOptions): Promise<void>;
}

const failureOf = (error: unknown): Failure => {
  const { name, message, why } = error as Error & { why?: string };
  return { name, message, why };
};

/** An end that lives in this thread. */
export class LocalEnd implements End {
  readonly link: OwnLink;
  private readonly controls: ControlMessage[] = [];
  private readonly aborts = new Map<number, AbortController>();
  private readonly providers = new Map<number, (isFailure: boolean) => void>();
  private closeReason: string | undefined;
  private violation: string | undefined;
  private wiresLost = 0;
  private peakBufferedBytes = 0;
  private peakHeldBytes = 0;

  constructor(options: CreateLinkOptions) {
    const { wires, ...others } = options;
    this.link = createLink(others);
    this.link.onControl = (message) => this.controls.push(message);
    this.link.onClose = (reason) => {
      if (this.closeReason !== undefined) throw new Error("onClose was called twice");
      this.closeReason = reason;
    };
    this.link.onViolation = (reason) => {
      this.violation = reason;
    };
    this.link.onWiresLost = () => this.wiresLost++;
    if (wires) this.attachWires(wires);
  }

  attachWires(wires: readonly Wire[]): void {
    this.link.attach(wires.map((wire) => this.watched(wire)));
  }

  async attach(origin: WireOrigin, slowly?: ThrottleOptions): Promise<void> {
    const wires = wiresFrom(origin);
    this.attachWires(slowly ? wires.map((wire) => throttle(wire, slowly)) : wires);
  }

  async send({ operation, key, seed, byteLength, parts = [byteLength] }: SendCommand): Promise<Outcome> {
    const bytes = seededBytes(seed, byteLength);
    let provide: (isFailure: boolean) => void = () => {};
    const provided = new Promise<void>((resolve, reject) => {
      provide = (isFailure) => (isFailure ? reject(new Error("this part failed")) : resolve());
    });
    provided.catch(() => {});
    this.providers.set(operation, provide);
    let at = 0;
    const made = parts.map((length) => {
      const part = bytes.subarray(at, at + Math.abs(length));
      at += Math.abs(length);
      return length < 0 ? provided.then(() => part) : part;
    });
    return this.outcome(operation, async (signal) => {
      await this.link.send(key, made, byteLength, signal);
      return { ok: true, byteLength, isRight: true };
    });
  }

  async provide(operation: number, isFailure = false): Promise<void> {
    this.providers.get(operation)?.(isFailure);
  }

  receive(operation: number, key: ParcelKey, maxBytes: number, seed: number): Promise<Outcome> {
    return this.outcome(operation, async (signal) => {
      const { bytes, key: came, startMs, endMs } = await this.link.receive(key, maxBytes, signal);
      const isRight =
        isEqual(bytes, seededBytes(seed, bytes.byteLength)) &&
        JSON.stringify(Object.entries(came).sort()) === JSON.stringify(Object.entries(key).sort()) &&
        startMs <= endMs;
      return { ok: true, byteLength: bytes.byteLength, isRight };
    });
  }

  async abort(operation: number): Promise<void> {
    this.aborts.get(operation)?.abort(new DOMException("stopped by the test", "AbortError"));
  }

  async sendControl(messages: readonly ControlMessage[]): Promise<Failure | undefined> {
    try {
      for (const message of messages) this.link.sendControl(message);
    } catch (error) {
      return failureOf(error);
    }
    return undefined;
  }

  async setEpoch(epoch: number): Promise<void> {
    this.link.setEpoch(epoch);
  }

  async status(): Promise<EndStatus> {
    const { link, closeReason, violation, wiresLost, peakBufferedBytes, peakHeldBytes } = this;
    const { isClosed, hasWires, heldBytes, kind, roundTripMs, bytesPerSecond } = link;
    return {
      counters: { ...link.counters },
      controls: [...this.controls],
      heardAgoMs: performance.now() - link.lastHeardMs,
      ...{ isClosed, hasWires, heldBytes, kind, roundTripMs, bytesPerSecond },
      ...{ closeReason, violation, wiresLost, peakBufferedBytes, peakHeldBytes },
    };
  }

  async close(reason: string): Promise<void> {
    this.link.close(reason);
  }

  private async outcome(operation: number, run: (signal: AbortSignal) => Promise<Outcome>): Promise<Outcome> {
    const controller = new AbortController();
    this.aborts.set(operation, controller);
    try {
      return await run(controller.signal);
    } catch (error) {
      return { ok: false, failure: failureOf(error) };
    } finally {
      this.aborts.delete(operation);
      this.providers.delete(operation);
    }
  }

  /** Looks at what waits in the wire whenever something is sent, and at what is held whenever something comes. */
  private watched(wire: Wire): Wire {
    const end = this;
    return new Proxy(wire, {
      get(target, property) {
        if (property !== "send") {
          const value = Reflect.get(target, property, target);
          return typeof value === "function" && property !== "onMessage" && property !== "onClose"
            ? value.bind(target)
            : value;
        }
        return (message: Uint8Array<ArrayBuffer>) => {
          end.peakBufferedBytes = Math.max(end.peakBufferedBytes, target.bufferedBytes);
          target.send(message);
        };
      },
      set(target, property, value) {
        const handler =
          property === "onMessage" && value
            ? (message: Uint8Array<ArrayBuffer>) => {
                value(message);
                end.peakHeldBytes = Math.max(end.peakHeldBytes, end.link.heldBytes);
              }
            : value;
        return Reflect.set(target, property, handler, target);
      },
    });
  }
}

interface Call {
  id: number;
  method: keyof End;
  args: unknown[];
}

/** Lets another thread command an end here. */
export function serveEnd(port: MessagePort, end: End): void {
  port.onmessage = async ({ data }: MessageEvent<Call>) => {
    const { id, method, args } = data;
    const run = end[method] as (...args: unknown[]) => Promise<unknown>;
    port.postMessage({ id, result: await run.apply(end, args) });
  };
}

/** Commands an end in another thread. */
export function remoteEnd(port: MessagePort): End {
  let nextId = 1;
  const waiting = new Map<number, (result: never) => void>();
  port.onmessage = ({ data }: MessageEvent<{ id: number; result: never }>) => {
    waiting.get(data.id)?.(data.result);
    waiting.delete(data.id);
  };
  const call = (method: keyof End, args: unknown[], transfer: Transferable[] = []) =>
    new Promise<never>((resolve) => {
      const id = nextId++;
      waiting.set(id, resolve);
      port.postMessage({ id, method, args } satisfies Call, transfer);
    });
  return {
    send: (...args) => call("send", args),
    provide: (...args) => call("provide", args),
    receive: (...args) => call("receive", args),
    abort: (...args) => call("abort", args),
    sendControl: (...args) => call("sendControl", args),
    setEpoch: (...args) => call("setEpoch", args),
    status: () => call("status", []),
    close: (...args) => call("close", args),
    attach: (origin, slowly) =>
      call(
        "attach",
        [origin, slowly],
        origin.kind === "webrtc" ? (origin.channels as unknown as Transferable[]) : [origin.port],
      ),
  };
}
