/**
 * Parcels on their way in. Each `receive` is a post with a number of its own, which the sender's chunks name: what names no
 * post of ours is dropped before it costs memory. Large parcels are credited when posted; small ones just come, and wait
 * unclaimed (within bounds) where nobody has asked yet.
 */
import { LinkError, OptionError } from "../errors.ts";
import { Assembly } from "./assembly.ts";
import { EAGER_BYTES, FRAME, type Frame, LONGEST_PARCEL_BYTES } from "./frame.ts";
import { epochError, type LinkCore, onAbort } from "./link-core.ts";
import { checkKey, isStale, keyText } from "./parcel-key.ts";
import type { Parcel, ParcelKey } from "./types.ts";
import { Unclaimed } from "./unclaimed.ts";

/** Large parcels that may have begun: as many as an honest sender has in flight. */
const MAX_BEGUN = 2;
/** Requests for missing chunks that brought nothing, and segments with a wrong hash, before the sender is a bad one. */
const MAX_FRUITLESS = 16;
const MAX_DAMAGED = 16;
/** A parcel that has begun and stands still this long, while its sender lives, will not come. */
const STALL_MS = 60_000;
/** Numbers of finished posts that are remembered, to tell repeated frames from unasked ones. */
const REMEMBERED = 64;

interface Begun {
  transfer: number;
  assembly: Assembly;
  startMs: number;
  progressMs: number;
  firstBytes: number;
  /** Lanes that have told the end of `round`, as bits. */
  round: number;
  ends: number;
  lanes: number;
  nackedRound: number;
  fruitless: number;
  missingBefore: number;
  /** Segments with a wrong hash that have been counted. */
  damaged: number;
}

interface Post {
  number: number;
  key: ParcelKey;
  text: string;
  maxBytes: number;
  isCredited: boolean;
  begun: Begun | undefined;
  /** Transfers up to this number were given up: chunks of theirs may still come, over another lane than the word of it. */
  abortedThrough: number;
  /** Hashes of a transfer, whether or not it has begun. */
  trailer: { transfer: number; totalBytes: number; digests: Uint8Array } | undefined;
  settle(result: Parcel | { error: unknown }): void;
}

/** See the module's comment. */
export class Incoming {
  readonly unclaimed = new Unclaimed();
  /** Bytes of buffers of parcels that have begun. */
  heldBytes = 0;
  private nextNumber = 1;
  private readonly posts = new Map<string, Post>();
  private readonly byNumber = new Map<number, Post>();
  private readonly finished: number[] = [];
  /** A small parcel had no room: from then on small ones are credited too. */
  private hasRefused = false;

  constructor(private readonly core: LinkCore) {}

  /** See `Link.receive`. */
  receive(key: ParcelKey, maxBytes: number, signal: AbortSignal): Promise<Parcel> {
    return new Promise((resolve, reject) => {
      checkKey("receive", key);
      if (!Number.isInteger(maxBytes) || maxBytes < 0 || maxBytes > LONGEST_PARCEL_BYTES)
        throw new OptionError(`receive: expected maxBytes of 0..${LONGEST_PARCEL_BYTES}, got ${maxBytes}`);
      signal.throwIfAborted();
      const text = keyText(key);
      if (isStale(key, this.core.epoch)) throw epochError("receive", text, this.core.epoch);
      if (this.posts.has(text)) throw new OptionError(`receive: ${text} is awaited already`);
      const waiting = this.unclaimed.take(text);
      if (waiting && waiting.bytes.byteLength > maxBytes) {
        const message = this.tooLong(text, waiting.bytes.byteLength, maxBytes);
        this.core.violation(message);
        throw new LinkError(`receive: the other end ${message}`, "violation");
      }
      if (waiting) {
        this.count(waiting, 0);
        resolve(waiting);
        return;
      }
      const post: Post = {
        number: this.nextNumber++,
        key: { ...key },
        text,
        maxBytes,
        isCredited: maxBytes > EAGER_BYTES || this.hasRefused,
        begun: undefined,
        abortedThrough: 0,
        trailer: undefined,
        settle: (result) => {
          stopListening();
          this.reset(post);
          this.posts.delete(text);
          this.byNumber.delete(post.number);
          if ("error" in result) reject(result.error);
          else resolve(result);
        },
      };
      const stopListening = onAbort(signal, () => this.withdraw(post, signal.reason));
      this.posts.set(text, post);
      this.byNumber.set(post.number, post);
      if (post.isCredited)
        this.core.ordered.push({ type: FRAME.credit, key: post.key, post: post.number, totalBytes: maxBytes });
    });
  }

  /** A small parcel, whole. */
  onEager(frame: Frame): void {
    const key = frame.key!;
    const text = keyText(key);
    if (isStale(key, this.core.epoch)) {
      this.core.counters.stale++;
      this.core.ordered.push({ type: FRAME.refused, code: 1, key, transfer: frame.transfer });
      return;
    }
    const now = this.core.now();
    const parcel = { key, bytes: frame.payload.slice(), startMs: now, endMs: now };
    this.core.counters.receivedBytes += frame.payload.byteLength;
    const post = this.posts.get(text);
    if (post) {
      if (frame.payload.byteLength > post.maxBytes) {
        this.core.violation(this.tooLong(text, frame.payload.byteLength, post.maxBytes));
        return;
      }
      this.acknowledge(key, frame.transfer, post.number);
      this.count(parcel, 0);
      post.settle(parcel);
      return;
    }
    if (this.unclaimed.has(text)) this.core.counters.duplicate++;
    else if (!this.unclaimed.put(parcel, frame.transfer)) {
      this.hasRefused = true;
      this.core.ordered.push({ type: FRAME.refused, code: 0, key, transfer: frame.transfer });
      return;
    }
    this.acknowledge(key, frame.transfer, 0);
  }

  /** The sender gives up. What was posted stays so: it may be sent anew. */
  onAbort(frame: Frame): void {
    this.unclaimed.abort(keyText(frame.key!), frame.transfer);
    const post = this.byNumber.get(frame.post);
    if (!post) return;
    post.abortedThrough = Math.max(post.abortedThrough, frame.transfer);
    if (post.begun && post.begun.transfer <= frame.transfer) this.reset(post);
  }

  onChunk(frame: Frame): void {
    const post = this.find(frame);
    const begun = post && this.begin(post, frame);
    if (!post || !begun) return;
    if (!begun.assembly.add(frame.offset, frame.payload)) {
      this.core.counters.duplicate++;
      return;
    }
    this.core.counters.receivedBytes += frame.payload.byteLength;
    begun.progressMs = this.core.now();
    this.settle(post);
  }

  onTrailer(frame: Frame): void {
    const post = this.find(frame);
    if (!post || (post.trailer && post.trailer.transfer > frame.transfer)) return;
    // A copy: the message must not be kept for as long as the parcel.
    const digests = frame.payload.slice();
    post.trailer = { transfer: frame.transfer, totalBytes: frame.totalBytes, digests };
    if (post.begun?.transfer !== frame.transfer) return;
    if (!this.begin(post, frame)) return;
    post.begun.assembly.setDigests(digests);
    this.settle(post);
  }

  /** One lane has nothing more of a round. */
  onEnd(frame: Frame): void {
    const post = this.byNumber.get(frame.post);
    if (!post) return;
    if (keyText(frame.key!) !== post.text) {
      this.core.violation(`named ${keyText(frame.key!)} as the parcel that is awaited as ${post.text}`);
      return;
    }
    // Of a transfer that lost all its chunks, the trailer tells the length.
    const { transfer } = frame;
    const length = post.trailer?.transfer === transfer ? post.trailer : undefined;
    const begun = post.begun?.transfer === transfer ? post.begun : length && this.begin(post, { ...frame, ...length });
    if (!begun || frame.offset < begun.round || frame.offset <= begun.nackedRound) return;
    if (frame.offset > begun.round || frame.totalBytes !== begun.lanes) {
      begun.round = frame.offset;
      begun.lanes = frame.totalBytes;
      begun.ends = 0;
    }
    begun.ends |= 1 << frame.code;
    this.settle(post);
  }

  /** Now and then: parcels that stand still. */
  tick(lastHeardMs: number): void {
    const now = this.core.now();
    if (now - lastHeardMs > 1000) return;
    for (const post of this.posts.values())
      if (post.begun && now - post.begun.progressMs > STALL_MS) {
        this.core.violation(`began ${post.text} and sent nothing of it for ${STALL_MS / 1000} s`);
        return;
      }
  }

  setEpoch(epoch: number): void {
    this.core.counters.stale += this.unclaimed.dropStale(epoch);
    for (const post of [...this.posts.values()])
      if (isStale(post.key, epoch)) this.withdraw(post, epochError("receive", post.text, epoch));
  }

  close(error: LinkError): void {
    this.unclaimed.clear();
    for (const post of [...this.posts.values()]) post.settle({ error });
  }

  /** The post that a frame names, where the frame is fit for it. */
  private find(frame: Frame): Post | undefined {
    const key = frame.key!;
    if (isStale(key, this.core.epoch)) {
      this.core.counters.stale++;
      return undefined;
    }
    const post = this.byNumber.get(frame.post);
    if (!post) {
      if (this.finished.includes(frame.post)) this.core.counters.duplicate++;
      else this.core.counters.unexpected++;
      return undefined;
    }
    if (keyText(key) !== post.text) {
      this.core.violation(`named ${keyText(key)} as the parcel that is awaited as ${post.text}`);
      return undefined;
    }
    if (frame.totalBytes > post.maxBytes) {
      this.core.violation(this.tooLong(post.text, frame.totalBytes, post.maxBytes));
      return undefined;
    }
    return post;
  }

  /** What has begun of a post; takes memory at the first frame of a transfer. */
  private begin(post: Post, frame: Frame): Begun | undefined {
    const { begun } = post;
    if (frame.transfer <= post.abortedThrough || (begun && frame.transfer < begun.transfer)) {
      this.core.counters.unexpected++;
      return undefined;
    }
    if (begun?.transfer === frame.transfer) {
      if (frame.totalBytes === begun.assembly.totalBytes) return begun;
      this.core.violation(
        `said that ${post.text} has ${begun.assembly.totalBytes} bytes, and then that it has ${frame.totalBytes}`,
      );
      return undefined;
    }
    // A later transfer of the same parcel: the one before was given up, and word of it is still on another lane.
    this.reset(post);
    let count = 0;
    for (const other of this.posts.values()) if (other.begun) count++;
    if (count >= MAX_BEGUN) {
      this.core.counters.unexpected++;
      return undefined;
    }
    const now = this.core.now();
    const assembly = new Assembly(frame.totalBytes, () => this.settle(post));
    this.heldBytes += frame.totalBytes;
    post.begun = {
      transfer: frame.transfer,
      assembly,
      startMs: now,
      progressMs: now,
      firstBytes: frame.type === FRAME.chunk ? frame.payload.byteLength : 0,
      round: 0,
      ends: 0,
      lanes: 0,
      nackedRound: 0,
      fruitless: 0,
      missingBefore: assembly.missing,
      damaged: 0,
    };
    if (post.trailer?.transfer === frame.transfer) {
      if (post.trailer.totalBytes === frame.totalBytes) assembly.setDigests(post.trailer.digests);
      else
        this.core.violation(
          `said that ${post.text} has ${post.trailer.totalBytes} bytes, and then ${frame.totalBytes}`,
        );
    }
    return post.begun;
  }

  /** Completes what is whole, and asks for what is known to be lost. */
  private settle(post: Post): void {
    const { begun } = post;
    if (!begun || this.byNumber.get(post.number) !== post) return;
    const { assembly } = begun;
    this.core.counters.corrupt += assembly.damaged - begun.damaged;
    begun.damaged = assembly.damaged;
    if (assembly.damaged > MAX_DAMAGED) {
      this.core.violation(`sent ${post.text} with a wrong hash ${assembly.damaged} times`);
      return;
    }
    if (assembly.isWhole) {
      this.complete(post, begun);
      return;
    }
    const isRoundOver = begun.lanes > 0 && begun.ends >>> 0 === 2 ** begun.lanes - 1 && begun.round > begun.nackedRound;
    if (isRoundOver && assembly.missing > 0 && assembly.isSettled) this.askAgain(post, begun);
  }

  private askAgain(post: Post, begun: Begun): void {
    const { assembly } = begun;
    begun.fruitless = assembly.missing < begun.missingBefore ? 0 : begun.fruitless + 1;
    begun.missingBefore = assembly.missing;
    if (begun.fruitless > MAX_FRUITLESS) {
      this.core.violation(`did not send what is missing of ${post.text} when asked ${MAX_FRUITLESS} times`);
      return;
    }
    begun.nackedRound = begun.round;
    const ranges = assembly.missingRanges();
    const payload = new Uint8Array(ranges.length * 8);
    const view = new DataView(payload.buffer);
    ranges.forEach(({ begin, end }, index) => {
      view.setUint32(index * 8, begin, true);
      view.setUint32(index * 8 + 4, end - begin, true);
    });
    this.core.counters.resent++;
    this.core.ordered.push({
      type: FRAME.nack,
      key: post.key,
      transfer: begun.transfer,
      post: post.number,
      offset: begun.round,
      payload,
    });
  }

  private complete(post: Post, begun: Begun): void {
    const { bytes } = begun.assembly;
    const parcel = { key: post.key, bytes, startMs: begun.startMs, endMs: this.core.now() };
    this.finished.push(post.number);
    if (this.finished.length > REMEMBERED) this.finished.shift();
    this.acknowledge(post.key, begun.transfer, post.number);
    this.count(parcel, begun.firstBytes);
    post.settle(parcel);
  }

  private count(parcel: Parcel, firstBytes: number): void {
    this.core.counters.receivedParcels++;
    // The first chunk came at startMs: the time after it is the others'.
    this.core.measured(parcel.bytes.byteLength - firstBytes, parcel.endMs - parcel.startMs);
  }

  private acknowledge(key: ParcelKey, transfer: number, post: number): void {
    this.core.ordered.push({ type: FRAME.ack, key, transfer, post });
  }

  private withdraw(post: Post, error: unknown): void {
    if (post.isCredited) this.core.ordered.push({ type: FRAME.cancel, key: post.key, post: post.number });
    post.settle({ error });
  }

  private reset(post: Post): void {
    if (!post.begun) return;
    this.heldBytes -= post.begun.assembly.totalBytes;
    post.begun.assembly.close();
    post.begun = undefined;
  }

  private tooLong(text: string, came: number, maxBytes: number): string {
    return `sent ${text} with ${came} bytes, expected at most ${maxBytes}`;
  }
}
