/**
 * Gets a model from peers, piece by piece. Sizes and hashes come from the leader, pieces from whoever has them; a piece counts
 * only once its hash is right, and one who sends another is told on and never asked again. Kept as Blobs (which a browser moves to
 * disk), so that this peer can give them on while it loads, and afterwards.
 */
import { ModelSourceError } from "../errors.ts";
import type { Link } from "../link/types.ts";
import type { ModelFiles } from "../model/types.ts";
import { untilAborted } from "../ring/abort.ts";
import { type PeerClock, sleep } from "./clock.ts";
import { isModelFile, pieceCount, pieceRange, sha256 } from "./weights-manifest.ts";
import type { WeightsMessage } from "./weights-messages.ts";
import type { PieceHolder } from "./weights-pieces.ts";
import { MOST_WANTED } from "./weights-server.ts";

/** Hashes per question: little enough that the first pieces come soon, for the leader has to read what it hashes. */
const HASHES_PER_ASK = 16;
/** A question is put again, to whoever leads by then. */
const ASK_AGAIN_MS = 5000;
/** Pieces that are fetched ahead of the reader. */
const PIECES_AHEAD = 4;
/** Largest file that is read whole. */
const MAX_WHOLE_BYTES = 512 * 2 ** 20;
/** Times that all sources are tried for a piece, each time with more patience. */
const MOST_ROUNDS = 12;

/** What the client needs of the ring around it. */
export interface PieceSources {
  leader(): Link | undefined;
  /** Whom to ask for a piece, best first. */
  sourcesFor(piece: number): readonly Link[];
  onBroken(peerId: string, reason: string): void;
  clock: PeerClock;
  pieceBytes: number;
  /** How long a source may take for a piece before the next one is asked; doubled from round to round. */
  patienceMs: number;
  life: AbortSignal;
}

/** What is known and held of one file. */
interface FetchedFile {
  /** Undefined until told; null where the file is absent. */
  size: number | null | undefined;
  hashes: (string | undefined)[];
  /** Called when the leader has told something. */
  told: (() => void)[];
  pieces: Map<number, Promise<Blob>>;
  /** Questions that are open, by the first piece asked about. */
  asking: Map<number, Promise<void>>;
}

/** See the module's comment. */
export class FetchedPieces implements PieceHolder {
  private readonly files = new Map<string, FetchedFile>();
  private readonly liars = new Set<string>();
  private readonly inFlight = new Map<string, number>();
  private readonly received = new Map<string, number>();
  private readonly refusals = new Map<number, { peerId: string; refuse: () => void }>();
  private freed: (() => void)[] = [];
  /** Not 0 at first, so that two peers' tickets do not look alike in logs. */
  private lastTicket = Math.floor(Math.random() * 2 ** 30);

  constructor(private readonly around: PieceSources) {}

  /** Pieces that came from a peer, with the right hash. */
  receivedFrom(peerId: string): number {
    return this.received.get(peerId) ?? 0;
  }

  /** The files, for `loadModel`. @param name For messages. */
  asFiles(name: string): ModelFiles {
    return {
      name,
      size: (path, signal) => untilAborted(this.size(path), signal ?? this.around.life),
      read: (path, range, signal) => untilAborted(this.read(path, range), signal ?? this.around.life),
    };
  }

  async size(file: string): Promise<number | undefined> {
    if (!isModelFile(file)) return undefined;
    return (await this.describe(file, 0)).size ?? undefined;
  }

  async hash(file: string, piece: number): Promise<string> {
    const hash = (await this.describe(file, piece)).hashes[piece];
    if (hash === undefined) throw new ModelSourceError(`weights: expected a piece of ${file}, got number ${piece}`);
    return hash;
  }

  async piece(file: string, piece: number, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const blob = await untilAborted(this.fetch(file, piece), signal);
    return new Uint8Array(await blob.arrayBuffer());
  }

  /** Who waits for an answer from this peer waits no longer. */
  closed(peerId: string): void {
    for (const refusal of this.refusals.values()) if (refusal.peerId === peerId) refusal.refuse();
    this.wake();
  }

  /** The sources are others than before: who waits for one looks again. */
  wake(): void {
    const waiting = this.freed;
    this.freed = [];
    for (const resume of waiting) resume();
  }

  onNone(peerId: string, { ticket }: WeightsMessage<"weightsNone">): void {
    const refusal = this.refusals.get(ticket);
    if (refusal?.peerId === peerId) refusal.refuse();
  }

  /** What the leader says of a file. Nobody else is listened to. */
  onHashes(peerId: string, message: WeightsMessage<"weightsHashes">): void {
    const { first, hashes, size } = message;
    const file = this.files.get(message.file);
    if (!file || peerId !== this.around.leader()?.peerId) return;
    const told = size ?? null;
    const count = size === undefined ? 0 : pieceCount(size, this.around.pieceBytes);
    const isConflict =
      (file.size !== undefined && file.size !== told) ||
      first + hashes.length > count ||
      hashes.some((hash, i) => file.hashes[first + i] !== undefined && file.hashes[first + i] !== hash);
    if (isConflict) {
      this.around.onBroken(peerId, `contradicted what was said of ${message.file} before`);
      return;
    }
    file.size = told;
    for (const [i, hash] of hashes.entries()) file.hashes[first + i] = hash;
    for (const resume of file.told.splice(0)) resume();
  }

  private fileOf(name: string): FetchedFile {
    let file = this.files.get(name);
    if (!file)
      this.files.set(name, (file = { size: undefined, hashes: [], told: [], pieces: new Map(), asking: new Map() }));
    return file;
  }

  /** What the leader says of the file, with the piece's hash where there is such a piece. */
  private async describe(name: string, piece: number): Promise<FetchedFile> {
    const file = this.fileOf(name);
    const first = Math.floor(piece / HASHES_PER_ASK) * HASHES_PER_ASK;
    const isKnown = () =>
      file.size === null ||
      (file.size !== undefined &&
        (piece >= pieceCount(file.size, this.around.pieceBytes) || file.hashes[piece] !== undefined));
    while (!isKnown()) {
      let asking = file.asking.get(first);
      if (!asking) {
        asking = this.askLeader(name, file, first).finally(() => file.asking.delete(first));
        file.asking.set(first, asking);
      }
      await asking;
    }
    return file;
  }

  /** Puts the question to whoever leads now. Resolves after an answer to any question about the file, or after a while. */
  private async askLeader(name: string, file: FetchedFile, first: number): Promise<void> {
    const { clock, life } = this.around;
    const leader = this.around.leader();
    if (leader && !leader.isClosed)
      leader.sendControl({ type: "weightsAsk", file: name, first, count: HASHES_PER_ASK });
    const pause = new AbortController();
    const told = new Promise<void>((resolve) => file.told.push(resolve));
    const again = sleep(clock, leader ? ASK_AGAIN_MS : ASK_AGAIN_MS / 20, AbortSignal.any([life, pause.signal]));
    again.catch(() => {});
    await Promise.race([told, again]).finally(() => pause.abort());
  }

  private async read(name: string, range?: { start: number; end: number }): Promise<Uint8Array<ArrayBuffer>> {
    const size = await this.size(name);
    if (size === undefined) throw new ModelSourceError(`weights: expected the leader to have ${name}, got none`);
    const { start, end } = range ?? { start: 0, end: size };
    if (start < 0 || end > size || start > end || (!range && size > MAX_WHOLE_BYTES))
      throw new ModelSourceError(`weights: expected bytes ${start} to ${end} of ${name}, got a file of ${size} bytes`);
    if (start === end) return new Uint8Array(0);
    const { pieceBytes } = this.around;
    const first = Math.floor(start / pieceBytes);
    const last = Math.floor((end - 1) / pieceBytes);
    const coming: Promise<Blob>[] = [];
    for (let piece = first; piece <= last; piece++) coming.push(this.fetch(name, piece));
    for (let ahead = last + 1; ahead < Math.min(last + 1 + PIECES_AHEAD, pieceCount(size, pieceBytes)); ahead++)
      this.fetch(name, ahead).catch(() => {});
    // Memory is taken once the pieces are here, not on the leader's word.
    const blobs = await Promise.all(coming);
    const whole = new Blob(blobs).slice(start - first * pieceBytes, end - first * pieceBytes);
    return new Uint8Array(await whole.arrayBuffer());
  }

  /** Each piece is fetched once, whoever wants it; after a failure it may be tried again. */
  private fetch(name: string, piece: number): Promise<Blob> {
    const { pieces } = this.fileOf(name);
    let blob = pieces.get(piece);
    if (!blob) {
      blob = this.fetchPiece(name, piece);
      pieces.set(piece, blob);
      blob.catch(() => pieces.delete(piece));
    }
    return blob;
  }

  private async fetchPiece(name: string, piece: number): Promise<Blob> {
    const { clock, life, patienceMs, pieceBytes } = this.around;
    const { start, end } = pieceRange((await this.size(name)) ?? 0, pieceBytes, piece);
    const hash = await this.hash(name, piece);
    for (let round = 0; round < MOST_ROUNDS; round++) {
      const tried = new Set<string>();
      for (let link = await this.take(piece, tried); link; link = await this.take(piece, tried)) {
        const bytes = await this.attempt(link, name, piece, end - start, patienceMs * 2 ** round);
        life.throwIfAborted();
        if (bytes && bytes.byteLength === end - start && (await sha256(bytes)) === hash) {
          this.received.set(link.peerId, this.receivedFrom(link.peerId) + 1);
          return new Blob([bytes]);
        }
        if (bytes) {
          this.liars.add(link.peerId);
          this.around.onBroken(link.peerId, `sent a piece of ${name} that is not the model's`);
        }
      }
      await sleep(clock, 250 * (round + 1), life);
    }
    throw new ModelSourceError(
      `weights: expected piece ${piece} of ${name} from a peer, got none in ${MOST_ROUNDS} rounds`,
    );
  }

  /** The best source that was not tried, as soon as it has a hand free; it is taken until {@link attempt} is over. */
  private async take(piece: number, tried: Set<string>): Promise<Link | undefined> {
    for (;;) {
      this.around.life.throwIfAborted();
      const link = this.around
        .sourcesFor(piece)
        .find((source) => !source.isClosed && !tried.has(source.peerId) && !this.liars.has(source.peerId));
      if (!link) return undefined;
      const busy = this.inFlight.get(link.peerId) ?? 0;
      if (busy < MOST_WANTED) {
        tried.add(link.peerId);
        this.inFlight.set(link.peerId, busy + 1);
        return link;
      }
      await new Promise<void>((resolve) => this.freed.push(resolve));
    }
  }

  /** Asks one peer for a piece; undefined where it has none, goes, or takes too long. */
  private async attempt(
    link: Link,
    name: string,
    piece: number,
    byteLength: number,
    patienceMs: number,
  ): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const ticket = (this.lastTicket = (this.lastTicket + 1) % 2 ** 32);
    const over = new AbortController();
    const signal = AbortSignal.any([this.around.life, over.signal]);
    let isHere = false;
    try {
      const refused = new Promise<undefined>((resolve) =>
        this.refusals.set(ticket, { peerId: link.peerId, refuse: () => resolve(undefined) }),
      );
      const key = { epoch: 0, op: ticket, layer: 0, kind: "weights", rank: piece } as const;
      const parcel = link.receive(key, byteLength, signal);
      const late = sleep(this.around.clock, patienceMs, signal).then(() => undefined);
      for (const promise of [parcel, late]) promise.catch(() => {});
      link.sendControl({ type: "weightsWant", file: name, piece, ticket });
      const bytes = (await Promise.race([parcel, refused, late]))?.bytes;
      isHere = bytes !== undefined;
      return bytes;
    } catch {
      // The link is closed: someone else has it.
      return undefined;
    } finally {
      this.refusals.delete(ticket);
      over.abort(new Error("no longer wanted"));
      if (!isHere && !link.isClosed) link.sendControl({ type: "weightsCancel", ticket });
      this.inFlight.set(link.peerId, this.inFlight.get(link.peerId)! - 1);
      this.wake();
    }
  }
}
