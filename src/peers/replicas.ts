/**
 * Neighbour replicas (`replicas: 1`): every rank keeps a copy of the K/V of the rank before it, in host memory. When that one goes, its
 * neighbour has the tokens at once: it brings them onto its GPU while it answers the roll call, and nothing has to be computed again
 * but what was committed in the last moment. Costs every rank's K/V a second time, and one transfer of each token.
 *
 * The neighbour asks: it knows from the epoch what the rank before it holds and what it has of that, so the same question serves
 * new tokens, tokens moved, and a new neighbour after a roll call.
 */
import type { ControlMessage, Link } from "../link/types.ts";
import type { HeldTokens, RankRun } from "../model/rank-types.ts";
import { tokenCount } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";
import type { Epoch } from "./epoch.ts";
import { differenceOf, intersectionOf, pickRanges } from "./holdings.ts";
import { type Check, flatRanges, integer, Misfit, object, ranges } from "./message-checks.ts";
import { type ReplicaShape, ReplicaStore } from "./replica-store.ts";

/** Bytes that one question asks for at most. */
const MOST_BYTES = 8 * 2 ** 20;
/** Questions that a neighbour may have open. */
const MOST_OPEN = 4;
/** Decoded tokens are asked for so many at a time: each question makes their rank read back. */
const DECODED_BATCH = 8;

const u32 = integer(0, 2 ** 32 - 1);
const FIELDS = {
  /** To the rank before me: send me these, as the parcel of this ticket. */
  replicaWant: object<{ epoch: number; ticket: number; tokens: TokenRange[] }>({
    epoch: u32,
    ticket: u32,
    tokens: ranges,
  }),
  /** I do not hold all of that. */
  replicaNone: object<{ epoch: number; ticket: number }>({ epoch: u32, ticket: u32 }),
} as const;

type ReplicaType = keyof typeof FIELDS;
type ReplicaMessage = { [K in ReplicaType]: { type: K } & ReturnType<(typeof FIELDS)[K]> }[ReplicaType];

/** The message, or a sentence that says how it breaks the protocol. */
function parse(raw: ControlMessage): ReplicaMessage | string {
  if (!Object.hasOwn(FIELDS, raw.type)) return "replicas: expected a known type of message, got another";
  const type = raw.type as ReplicaType;
  try {
    return { type, ...(FIELDS[type] as Check<object>)(raw, "message") } as ReplicaMessage;
  } catch (error) {
    return `replicas: ${type}: ${error instanceof Misfit ? error.message : "expected a plain message"}`;
  }
}

/** What replicas need of the peer that they are part of. */
export interface ReplicasParts {
  /** Runs after what the rank does now; rejects where an epoch ends it. */
  work<T>(work: (rank: RankRun, signal: AbortSignal) => Promise<T>): Promise<T>;
  /** For its sizes; undefined while there is none. */
  rank(): RankRun | undefined;
  linkOf(peerId: string): Link | undefined;
  /** A peer broke the rules: a reason to drop it. */
  onBroken(peerId: string, reason: string): void;
}

/** See the module's comment. One per peer; does nothing until {@link opened}. */
export class Replicas {
  private store: ReplicaStore | undefined;
  /** Whose tokens the store holds. */
  private ownerId: string | undefined;
  private epoch: Epoch | undefined;
  private ending = new AbortController();
  /** Asked for and not here yet. */
  private readonly coming = new Map<number, readonly TokenRange[]>();
  private readonly refusals = new Map<number, () => void>();
  private lastTicket = 0;
  private readonly openFor = new Set<number>();

  constructor(private readonly parts: ReplicasParts) {}

  /** Tokens of the neighbour that are here. */
  get tokens(): number {
    return this.store?.tokens ?? 0;
  }

  /** Bytes of host memory that they take. */
  get byteLength(): number {
    return this.store?.byteLength ?? 0;
  }

  /** What is kept is of no use any more: another run, or none. */
  clear(): void {
    this.interrupt();
    this.epoch = undefined;
    this.store = undefined;
    this.ownerId = undefined;
  }

  /** The epoch is over: what is on its way is not awaited any more. What is here stays. */
  interrupt(): void {
    this.ending.abort(new Error("the epoch is over"));
    this.ending = new AbortController();
    this.coming.clear();
    this.epoch = undefined;
  }

  /**
   * At a roll call: the kept tokens of a neighbour that is not in the ring any more become this rank's own, as far as there is room.
   * @param run Not busy.
   * @param epoch The one that begins.
   * @param capacity Tokens that this rank has memory for.
   * @returns how many.
   */
  async takeOver(
    run: RankRun,
    { ranks }: Pick<Epoch, "ranks">,
    capacity: number,
    signal: AbortSignal,
  ): Promise<number> {
    const { store, ownerId } = this;
    if (!store || ownerId === undefined || ranks.some(({ id }) => id === ownerId)) return 0;
    const spare = differenceOf(store.ranges, run.held);
    const room = Math.max(0, Math.floor(capacity) - tokenCount(run.held));
    const tokens = pickRanges(spare, 0, 1, Math.min(tokenCount(spare), room));
    this.store = undefined;
    this.ownerId = undefined;
    try {
      if (tokenCount(tokens) > 0) await run.importTokens(store.take(tokens), signal);
      return tokenCount(tokens);
    } catch (error) {
      if (signal.aborted) throw error;
      // They do not fit after all: then they are computed again, by whoever has room.
      return 0;
    }
  }

  /** An epoch has begun, and it is known what everyone holds: asks the new neighbour for what is not here. */
  opened(epoch: Epoch): void {
    this.interrupt();
    const ownerId = this.ownerOf(epoch);
    if (ownerId === undefined) {
      this.clear();
      return;
    }
    if (this.ownerId !== ownerId) this.store = undefined;
    this.ownerId = ownerId;
    this.epoch = epoch;
    this.store?.retain(epoch.held?.[ownerRank(epoch)] ?? []);
    this.look();
  }

  /** The neighbour will hold these as soon as it has done the operation that begins: asked for in advance. */
  expect(tokens: readonly (readonly TokenRange[])[]): void {
    const { epoch } = this;
    if (epoch) this.ask(epoch, this.lacking(tokens[ownerRank(epoch)] ?? []));
  }

  /** What everyone holds has changed (`epoch.held`): asks for what is new. */
  look(): void {
    const { epoch } = this;
    const held = epoch?.held?.[ownerRank(epoch)];
    if (!epoch || !held) return;
    const coming = [...this.coming.values()].reduce((sum, tokens) => sum + tokenCount(tokens), 0);
    const behind = tokenCount(held) - this.tokens - coming;
    // Counting is quick, and tells in most cases that there is nothing to do.
    if (behind <= 0) return;
    const lacking = this.lacking(held);
    if (tokenCount(lacking) >= DECODED_BATCH || this.tokens + coming === 0) this.ask(epoch, lacking);
  }

  /** Tokens have gone from one rank to another. */
  moved(): void {
    const held = this.epoch?.held?.[ownerRank(this.epoch)];
    if (held) this.store?.retain(held);
    this.look();
  }

  /** Takes control messages whose type begins with "replica"; they are checked here. */
  handle(link: Link, raw: ControlMessage): void {
    const message = parse(raw);
    if (typeof message === "string") this.parts.onBroken(link.peerId, message);
    else if (message.type === "replicaWant") void this.give(link, message);
    else if (message.epoch === this.epoch?.number && link.peerId === this.ownerId)
      this.refusals.get(message.ticket)?.();
  }

  private ownerOf({ ranks, rank }: Epoch): string | undefined {
    return ranks.length > 1 ? ranks[(rank + ranks.length - 1) % ranks.length]!.id : undefined;
  }

  /** Of these, what is neither here nor on its way. */
  private lacking(tokens: readonly TokenRange[]): TokenRange[] {
    return differenceOf(tokens, this.store?.ranges ?? [], ...this.coming.values());
  }

  private ask(epoch: Epoch, tokens: readonly TokenRange[]): void {
    const link = this.ownerId === undefined ? undefined : this.parts.linkOf(this.ownerId);
    const shape = this.parts.rank();
    if (!link || link.isClosed || !shape || tokenCount(tokens) === 0 || this.coming.size >= MOST_OPEN) return;
    const ticket = (this.lastTicket = (this.lastTicket + 1) % 2 ** 32);
    const most = Math.max(1, Math.floor(MOST_BYTES / shape.kvBytesPerToken));
    const part = pickRanges(tokens, 0, 1, Math.min(most, tokenCount(tokens)));
    const { signal } = this.ending;
    this.coming.set(ticket, part);
    void this.fetch(link, epoch, ticket, part, shape)
      .catch(() => false)
      .then((isNew) => {
        this.refusals.delete(ticket);
        if (signal.aborted) return;
        this.coming.delete(ticket);
        // What was refused is asked for with what comes next.
        if (isNew) this.look();
      });
  }

  /** Asks and waits. @returns whether they came */
  private async fetch(
    link: Link,
    epoch: Epoch,
    ticket: number,
    tokens: readonly TokenRange[],
    { layerCount, kvBytesPerToken }: ReplicaShape,
  ): Promise<boolean> {
    const byteLength = tokenCount(tokens) * kvBytesPerToken;
    const refused = new Promise<undefined>((resolve) => this.refusals.set(ticket, () => resolve(undefined)));
    const key = { epoch: epoch.number, op: ticket, layer: 0, kind: "page", rank: ownerRank(epoch) } as const;
    const { signal } = this.ending;
    const calledOff = new AbortController();
    const parcel = link.receive(key, byteLength, AbortSignal.any([signal, calledOff.signal]));
    parcel.catch(() => {});
    link.sendControl({ type: "replicaWant", epoch: epoch.number, ticket, tokens: flatRanges(tokens) });
    const bytes = (await Promise.race([parcel, refused]))?.bytes;
    if (!bytes) calledOff.abort(new Error("not held there"));
    if (!bytes || signal.aborted) return false;
    if (bytes.byteLength !== byteLength) {
      this.parts.onBroken(link.peerId, `replicas: expected ${byteLength} bytes, got ${bytes.byteLength}`);
      return false;
    }
    this.store ??= new ReplicaStore({ layerCount, kvBytesPerToken });
    const layerBytes = byteLength / layerCount;
    const layers = Array.from({ length: layerCount }, (_, layer) =>
      bytes.subarray(layer * layerBytes, (layer + 1) * layerBytes),
    );
    this.store.put({ ranges: tokens, layers });
    return true;
  }

  /** Answers a question of the rank after this one: when it is this rank's turn, for then the tokens are committed. */
  private async give(link: Link, message: Extract<ReplicaMessage, { type: "replicaWant" }>): Promise<void> {
    const { ticket, tokens, epoch: number } = message;
    const { epoch } = this;
    const nextId = epoch?.ranks[(epoch.rank + 1) % epoch.ranks.length]?.id;
    // Of another epoch, or not (or no longer) the neighbour: it finds out by itself.
    if (!epoch || epoch.number !== number || nextId !== link.peerId) return;
    if (this.openFor.size >= MOST_OPEN || this.openFor.has(ticket)) {
      this.parts.onBroken(link.peerId, `replicas: expected at most ${MOST_OPEN} questions at once, got more`);
      return;
    }
    this.openFor.add(ticket);
    const { signal } = this.ending;
    try {
      const held = await this.parts.work(async (run, workSignal): Promise<HeldTokens | undefined> => {
        const count = tokenCount(tokens);
        const isMine = tokenCount(intersectionOf(tokens, run.held)) === count;
        return isMine && count * run.kvBytesPerToken <= MOST_BYTES + run.kvBytesPerToken
          ? run.exportTokens(tokens, workSignal)
          : undefined;
      });
      signal.throwIfAborted();
      if (!held) return link.sendControl({ type: "replicaNone", epoch: number, ticket });
      const key = { epoch: number, op: ticket, layer: 0, kind: "page", rank: epoch.rank } as const;
      const byteLength = held.layers.reduce((sum, bytes) => sum + bytes.byteLength, 0);
      await link.send(key, held.layers, byteLength, signal);
    } catch {
      // The epoch is over, or the link: the next neighbour asks anew.
    } finally {
      this.openFor.delete(ticket);
    }
  }
}

/** The rank before this one. */
const ownerRank = ({ ranks, rank }: Epoch): number => (rank + ranks.length - 1) % ranks.length;
