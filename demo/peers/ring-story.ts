/**
 * What has happened in the ring, told from its events: who is in it, who has just gone, and a log of plain sentences. Pure:
 * the same events give the same story, whatever draws it.
 */
import type { PeerEvent, PeerStatus } from "../../src/index.ts";
import { formatCount, formatSeconds } from "../format.ts";

/** Milliseconds for which one who has gone is still shown. */
export const GHOST_MS = 20_000;
const MOST_LINES = 200;

/** How a line of the log is meant: what happened, something to worry about, or that it is well again. */
export type LineTone = "plain" | "bad" | "good";

/** One sentence of the log. */
export interface LogLine {
  /** Ascending; a line that is told on (a recovery's progress) keeps its own. */
  id: number;
  timeMs: number;
  text: string;
  tone: LineTone;
}

/** A peer, and when it went. */
export interface ShownPeer extends PeerStatus {
  goneMs?: number;
  /** The last rank it had, also after it has gone. */
  lastRank?: number;
}

/** One who waits to be let in. */
export interface Asking {
  peerId: string;
  name: string;
  adapterName: string;
}

const SMALL = ["none", "one", "two", "three", "four", "five", "six"];

/** "the one that is left", "the two that are left". */
const whoIsLeft = (count: number): string =>
  `the ${SMALL[count] ?? formatCount(count)} that ${count === 1 ? "is" : "are"} left`;

/** Without the full stop that a sentence of its own would have. */
const clause = (text: string): string => text.replace(/[.\s]+$/, "");

/** Gathers events; read what it holds after each. */
export class RingStory {
  /** In the order of their ranks; those without one after them, those who have gone last. */
  peers: ShownPeer[] = [];
  /** Oldest first. */
  lines: LogLine[] = [];
  asking: Asking[] = [];
  epoch = 0;
  /** Peer ids in the order of their ranks. */
  ranks: readonly string[] = [];
  recovering: { doneTokens: number; totalTokens: number } | undefined;
  private lineId = 0;
  private recoveryLine: LogLine | undefined;

  get self(): ShownPeer | undefined {
    return this.peers.find((peer) => peer.isSelf);
  }

  get leader(): ShownPeer | undefined {
    return this.peers.find((peer) => peer.isLeader && peer.state !== "gone");
  }

  /** Peers that compute, or may from the next boundary on; this one included. */
  get readyCount(): number {
    return this.peers.filter((peer) => peer.state === "ready" || peer.state === "working").length;
  }

  /** Peers that are here, in whatever state. */
  get presentCount(): number {
    return this.peers.filter((peer) => peer.state !== "gone").length;
  }

  /** Peers by rank in the current epoch. */
  get ranked(): (ShownPeer | undefined)[] {
    return this.ranks.map((id) => this.peers.find((peer) => peer.id === id));
  }

  /** Takes an event in. @param nowMs any clock that only goes forward */
  tell(event: PeerEvent, nowMs: number): void {
    switch (event.type) {
      case "peers":
        this.takePeers(event.peers, nowMs);
        return;
      case "asks":
        if (!this.asking.some(({ peerId }) => peerId === event.peerId)) {
          const { peerId, name, adapterName } = event;
          this.asking.push({ peerId, name, adapterName });
          this.say(nowMs, `${name} asks to come in.`);
        }
        return;
      case "joined":
        this.answered(event.peerId);
        this.say(nowMs, `${event.name} is here, and gets ready.`);
        return;
      case "left":
        this.left(event, nowMs);
        return;
      case "suspected":
        this.mark(event.peerId, "suspected");
        this.say(nowMs, `${event.name} has been silent for a second.`, "bad");
        return;
      case "epoch":
        // Of one who went the log has spoken already, and with more in it.
        if (
          !(event.ranks.length < this.ranks.length && this.lines.slice(-3).some(({ text }) => / has left\b/.test(text)))
        )
          this.say(nowMs, event.message, event.ranks.length > this.ranks.length && this.epoch > 0 ? "good" : "plain");
        this.epoch = event.epoch;
        this.ranks = event.ranks;
        return;
      case "recovering": {
        const { doneTokens, totalTokens } = event;
        this.recovering = { doneTokens, totalTokens };
        const text = `${clause(event.message)} (${formatCount(doneTokens)} of ${formatCount(totalTokens)} done).`;
        if (this.recoveryLine) this.recoveryLine.text = text;
        else this.recoveryLine = this.say(nowMs, text, "bad");
        return;
      }
      case "recovered":
        this.recovering = this.recoveryLine = undefined;
        this.say(nowMs, event.message || recoveredText(event.milliseconds), "good");
        return;
      case "leader":
        this.say(nowMs, event.message);
        return;
      case "end":
        this.recovering = this.recoveryLine = undefined;
        this.say(nowMs, event.message, event.stopReason === "failed" ? "bad" : "plain");
        return;
    }
  }

  /** The leader has answered one who asked. */
  answered(peerId: string): void {
    this.asking = this.asking.filter((one) => one.peerId !== peerId);
  }

  /** A sentence of the page's own. */
  say(timeMs: number, text: string, tone: LineTone = "plain"): LogLine | undefined {
    if (!text.trim() || this.lines.at(-1)?.text === text) return undefined;
    const line = { id: ++this.lineId, timeMs, text, tone };
    this.lines.push(line);
    if (this.lines.length > MOST_LINES) this.lines.shift();
    return line;
  }

  /** Forgets those who went long ago. @returns whether anyone was forgotten */
  sweep(nowMs: number): boolean {
    const before = this.peers.length;
    this.peers = this.peers.filter(({ goneMs }) => goneMs === undefined || nowMs - goneMs < GHOST_MS);
    return this.peers.length < before;
  }

  private takePeers(peers: readonly PeerStatus[], nowMs: number): void {
    const before = new Map(this.peers.map((peer) => [peer.id, peer]));
    const now = peers.map((peer): ShownPeer => {
      const known = before.get(peer.id);
      const lastRank = peer.rank ?? known?.lastRank;
      if (peer.state !== "gone") return { ...peer, lastRank };
      return { ...peer, lastRank, goneMs: known?.goneMs ?? nowMs, reason: peer.reason ?? known?.reason };
    });
    // Whoever is no longer told of has gone, and is shown for a while all the same.
    const told = new Set(peers.map(({ id }) => id));
    for (const peer of before.values())
      if (!told.has(peer.id)) now.push({ ...peer, state: "gone", rank: undefined, goneMs: peer.goneMs ?? nowMs });
    const place = (peer: ShownPeer) => (peer.state === "gone" ? 1000 : 0) + (peer.rank ?? 500);
    this.peers = now
      .filter(({ goneMs }) => goneMs === undefined || nowMs - goneMs < GHOST_MS)
      .sort((a, b) => place(a) - place(b));
    this.asking = this.asking.filter(({ peerId }) => {
      const state = peers.find(({ id }) => id === peerId)?.state;
      return state === undefined || state === "connecting" || state === "asking";
    });
  }

  private mark(peerId: string, state: PeerStatus["state"]): void {
    const peer = this.peers.find(({ id }) => id === peerId);
    if (peer) peer.state = state;
  }

  private left({ peerId, name, reason, lostTokens }: Extract<PeerEvent, { type: "left" }>, nowMs: number): void {
    this.answered(peerId);
    const peer = this.peers.find(({ id }) => id === peerId);
    if (peer) Object.assign(peer, { state: "gone", goneMs: peer.goneMs ?? nowMs, reason, rank: undefined });
    const why = reason ? ` (${clause(reason)})` : "";
    const lost =
      lostTokens > 0
        ? `: ${formatCount(lostTokens)} ${lostTokens === 1 ? "token is" : "tokens are"} computed again by ${whoIsLeft(Math.max(1, this.presentCount))}`
        : "";
    this.say(nowMs, `${name} has left${why}${lost}.`, lostTokens > 0 ? "bad" : "plain");
  }
}

const recoveredText = (milliseconds: number): string =>
  `Recovered in ${formatSeconds(milliseconds / 1000)}; the answer goes on.`;
