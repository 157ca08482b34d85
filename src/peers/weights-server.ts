/** Gives pieces of the model, and their hashes, to peers who ask: within bounds, so that nobody is kept busy for nothing. */
import type { Link } from "../link/types.ts";
import { pieceCount } from "./weights-manifest.ts";
import type { WeightsMessage } from "./weights-messages.ts";
import type { PieceHolder } from "./weights-pieces.ts";

/** Pieces that one peer may have asked for and not got yet; a client asks for at most {@link MOST_WANTED}. */
const MOST_OPEN = 8;
/** Pieces that a client asks of one peer at a time. */
export const MOST_WANTED = 3;
/** How often a peer may ask for one piece: a few times more than a broken link explains. */
const MOST_TIMES = 4;
/** Questions for hashes that one peer may have open. */
const MOST_ASKS = 8;

/** What is known of one peer who asks. */
interface Customer {
  open: Map<number, AbortController>;
  asks: Set<string>;
  times: Map<string, number>;
  sentPieces: number;
}

/** See the module's comment. */
export class PieceServer {
  private readonly customers = new Map<string, Customer>();

  constructor(
    private readonly pieceBytes: number,
    /** Undefined while this peer has nothing to give. */
    private readonly holder: () => PieceHolder | undefined,
    private readonly onBroken: (peerId: string, reason: string) => void,
    private readonly life: AbortSignal,
  ) {}

  /** Pieces that went to a peer. */
  sentTo(peerId: string): number {
    return this.customers.get(peerId)?.sentPieces ?? 0;
  }

  private customer(peerId: string): Customer {
    let customer = this.customers.get(peerId);
    if (!customer) {
      customer = { open: new Map(), asks: new Set(), times: new Map(), sentPieces: 0 };
      this.customers.set(peerId, customer);
    }
    return customer;
  }

  /** Answers with size and hashes; not at all where it has nothing, so that the question is put to the next leader. */
  async ask(link: Link, { file, first, count }: WeightsMessage<"weightsAsk">): Promise<void> {
    const holder = this.holder();
    const customer = this.customer(link.peerId);
    const question = `${first} ${count} ${file}`;
    // Asked again while the hashes are being computed.
    if (!holder || customer.asks.has(question)) return;
    if (customer.asks.size >= MOST_ASKS)
      return this.onBroken(link.peerId, `asked for the hashes of more than ${MOST_ASKS} parts of the model at once`);
    customer.asks.add(question);
    try {
      const size = await holder.size(file, this.life);
      const end = Math.min(first + count, size === undefined ? 0 : pieceCount(size, this.pieceBytes));
      const hashes: string[] = [];
      for (let piece = first; piece < end; piece++) hashes.push(await holder.hash(file, piece, this.life));
      link.sendControl({ type: "weightsHashes", file, first, ...(size === undefined ? {} : { size }), hashes });
    } catch {
      // The source failed, or the link has gone: who still wants to know asks again.
    } finally {
      customer.asks.delete(question);
    }
  }

  /** Sends a piece as soon as it is here. */
  async want(link: Link, { file, piece, ticket }: WeightsMessage<"weightsWant">): Promise<void> {
    const { peerId } = link;
    const customer = this.customer(peerId);
    if (customer.open.size >= MOST_OPEN || customer.open.has(ticket))
      return this.onBroken(peerId, `asked for more than ${MOST_OPEN} pieces of the model at once, or twice for one`);
    const name = `${piece} ${file}`;
    const times = customer.times.get(name) ?? 0;
    if (times >= MOST_TIMES) return this.onBroken(peerId, `asked ${times + 1} times for piece ${name}`);
    const controller = new AbortController();
    const signal = AbortSignal.any([this.life, controller.signal]);
    customer.open.set(ticket, controller);
    try {
      const bytes = await this.holder()?.piece(file, piece, signal);
      if (!bytes) throw new Error("nothing to give yet");
      // Only what exists is counted: names that someone makes up take no memory.
      customer.times.set(name, times + 1);
      const key = { epoch: 0, op: ticket, layer: 0, kind: "weights", rank: piece } as const;
      await link.send(key, [bytes], bytes.byteLength, signal);
      customer.sentPieces++;
    } catch {
      if (!signal.aborted && !link.isClosed) link.sendControl({ type: "weightsNone", ticket });
    } finally {
      if (customer.open.get(ticket) === controller) customer.open.delete(ticket);
    }
  }

  /** The peer no longer wants a piece. */
  cancel(peerId: string, ticket: number): void {
    const open = this.customers.get(peerId)?.open;
    open?.get(ticket)?.abort(new Error("no longer wanted"));
    open?.delete(ticket);
  }

  /** Forgets a peer that is gone. */
  closed(peerId: string): void {
    for (const controller of this.customers.get(peerId)?.open.values() ?? []) controller.abort(new Error("gone"));
    this.customers.delete(peerId);
  }
}
