/**
 * The weights go from peer to peer: who has none gets them from those who have, in pieces with hashes that the leader vouches
 * for. Several who join at once form a chain: each gets its pieces from the one who joined just before it, as that one gets them, so
 * that a piece goes through any link at most once, and through the leader's once for all of them.
 */

import { platformClock } from "../link/link.ts";
import type { ControlMessage, Link } from "../link/types.ts";
import type { ModelFiles } from "../model/types.ts";
import type { PeerClock } from "./clock.ts";
import { FetchedPieces } from "./weights-client.ts";
import { PIECE_BYTES } from "./weights-manifest.ts";
import { parseWeightsMessage } from "./weights-messages.ts";
import { OwnPieces } from "./weights-pieces.ts";
import { PieceServer } from "./weights-server.ts";

/** What the exchange needs of the peer that it is part of. */
export interface WeightsExchangeOptions {
  /** The link to a peer, where there is one. */
  linkOf(peerId: string): Link | undefined;
  leaderId(): string | undefined;
  /** A peer sent wrong bytes, or broke the rules: a reason to drop it. */
  onBroken(peerId: string, reason: string): void;
  clock?: PeerClock;
  /** Bytes of a piece, the same on all peers. Default 4 MiB. */
  pieceBytes?: number;
  /** How long a peer may take for a piece before another is asked. Default 15 s. */
  patienceMs?: number;
}

/** See {@link createWeightsExchange}. */
export interface WeightsExchange {
  /** Takes control messages whose type begins with "weights"; they are checked here. */
  handle(link: Link, message: ControlMessage): void;
  /** From now on peers get the model from these files, which must be readable at any time. */
  serve(files: ModelFiles): void;
  /** The model as peers give it, for `loadModel`; afterwards this peer gives it on. @param name For messages. */
  files(name: string): ModelFiles;
  /** Leader: who is loading (in order of joining) and who has everything; called whenever that changes. */
  direct(peers: { loading: readonly string[]; ready: readonly string[] }): void;
  /** A peer is gone. */
  closed(peerId: string): void;
  /** Pieces that went to, and came from, a peer. */
  pieces(peerId: string): { sent: number; received: number };
  destroy(): void;
}

/** Whom each of those who load gets its pieces from. Pure. */
export function planWeightSources(
  loading: readonly string[],
  ready: readonly string[],
): Map<string, { ahead: string | undefined; ready: string[] }> {
  return new Map(loading.map((peerId, i) => [peerId, { ahead: loading[i - 1], ready: [...ready] }]));
}

/** One peer's part in giving the model around: serves and gets. */
export function createWeightsExchange(options: WeightsExchangeOptions): WeightsExchange {
  const { linkOf, leaderId, onBroken } = options;
  const pieceBytes = options.pieceBytes ?? PIECE_BYTES;
  const life = new AbortController();
  let own: OwnPieces | undefined;
  let isFetching = false;
  let sources: { ahead?: string | undefined; ready: readonly string[] } = { ready: [] };
  /** What each was told last: it is told again only what is new. */
  const directed = new Map<string, string>();

  /** The one ahead, then those who have everything, in turns from piece to piece, then the leader. */
  const sourcesFor = (piece: number): Link[] => {
    const turn = sources.ready.map((_, i, all) => all[(i + piece) % all.length]!);
    const ids = new Set([sources.ahead, ...turn, leaderId()].filter((id) => id !== undefined));
    return [...ids].map(linkOf).filter((link) => link !== undefined);
  };
  const fetched = new FetchedPieces({
    ...{ sourcesFor, onBroken, pieceBytes, life: life.signal },
    clock: options.clock ?? platformClock,
    patienceMs: options.patienceMs ?? 15_000,
    leader: () => {
      const id = leaderId();
      return id === undefined ? undefined : linkOf(id);
    },
  });
  const holder = () => own ?? (isFetching ? fetched : undefined);
  const server = new PieceServer(pieceBytes, holder, onBroken, life.signal);

  return {
    handle(link, raw) {
      if (life.signal.aborted) return;
      const message = parseWeightsMessage(raw);
      if (typeof message === "string") return onBroken(link.peerId, message);
      switch (message.type) {
        case "weightsSources":
          if (link.peerId !== leaderId()) return;
          sources = { ahead: message.ahead, ready: message.ready };
          return fetched.wake();
        case "weightsAsk":
          return void server.ask(link, message);
        case "weightsHashes":
          return fetched.onHashes(link.peerId, message);
        case "weightsWant":
          return void server.want(link, message);
        case "weightsCancel":
          return server.cancel(link.peerId, message.ticket);
        case "weightsNone":
          return fetched.onNone(link.peerId, message);
      }
    },
    serve(files) {
      own = new OwnPieces(files, pieceBytes);
    },
    files(name) {
      isFetching = true;
      return fetched.asFiles(name);
    },
    direct({ loading, ready }) {
      for (const peerId of directed.keys()) if (!loading.includes(peerId)) directed.delete(peerId);
      for (const [peerId, plan] of planWeightSources(loading, ready)) {
        const message = { type: "weightsSources", ...(plan.ahead ? { ahead: plan.ahead } : {}), ready: plan.ready };
        const text = JSON.stringify(message);
        const link = linkOf(peerId);
        if (directed.get(peerId) === text || !link || link.isClosed) continue;
        directed.set(peerId, text);
        link.sendControl(message);
      }
    },
    closed(peerId) {
      directed.delete(peerId);
      server.closed(peerId);
      fetched.closed(peerId);
    },
    pieces: (peerId) => ({ sent: server.sentTo(peerId), received: fetched.receivedFrom(peerId) }),
    destroy() {
      life.abort(new Error("the exchange of weights is over"));
      fetched.wake();
    },
  };
}
