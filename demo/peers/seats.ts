/** From the story of a ring to what is drawn of it: who sits where on the circle, and how much each holds. Pure. */
import type { MemoryFacts } from "../protocol.ts";
import type { RingSeat } from "../views/ring-view.ts";
import type { RingStory, ShownPeer } from "./ring-story.ts";

const WORDS: Record<RingSeat["state"], string> = {
  ok: "",
  suspected: ", silent",
  gone: ", gone",
  waiting: ", not part of the ring yet",
};

function seatOf(peer: ShownPeer, rank: number | undefined): RingSeat {
  const state =
    peer.state === "gone" ? "gone" : peer.state === "suspected" ? "suspected" : rank === undefined ? "waiting" : "ok";
  return {
    id: peer.id,
    rank,
    state,
    title: `${rank === undefined ? "" : `Rank ${rank}: `}${peer.name}${WORDS[state]}`,
  };
}

/**
 * Ranks in their order. One who has just gone keeps its place between those who sat beside it; one who is still loading
 * sits at the end. Before the first epoch this machine is the whole ring.
 */
export function seatsOf(story: RingStory): RingSeat[] {
  const ranked = story.ranked.filter((peer) => peer !== undefined && peer.state !== "gone") as ShownPeer[];
  const self = story.self;
  if (ranked.length === 0 && self) ranked.push(self);
  const seats = ranked.map((peer, rank) => seatOf(peer, rank));
  const others = story.peers.filter((peer) => !ranked.includes(peer));
  const ghosts = others.filter((peer) => peer.state === "gone" && peer.lastRank !== undefined);
  // From the back, so that the earlier places still stand when a seat is put in.
  for (const ghost of [...ghosts].sort((a, b) => b.lastRank! - a.lastRank!))
    seats.splice(Math.min(ghost.lastRank!, seats.length), 0, seatOf(ghost, undefined));
  for (const peer of others) if (peer.state !== "gone") seats.push(seatOf(peer, undefined));
  return seats;
}

/** K/V bytes per rank, and at most so far. @param peaks by peer id; kept up to date here */
export function memoryOf(story: RingStory, peaks: Map<string, number>): MemoryFacts {
  const ranked = story.ranked.filter((peer) => peer !== undefined && peer.state !== "gone") as ShownPeer[];
  const ranks = ranked.map(({ id, usedBytes }) => {
    const peakBytes = Math.max(peaks.get(id) ?? 0, usedBytes);
    peaks.set(id, peakBytes);
    return { bytes: usedBytes, peakBytes };
  });
  const sum = (key: "bytes" | "peakBytes") => ranks.reduce((total, rank) => total + rank[key], 0);
  return { bytes: sum("bytes"), peakBytes: sum("peakBytes"), ranks };
}
