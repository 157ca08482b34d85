/**
 * Which tokens each rank takes. Nothing is padded and nothing has to divide: counts differ by at most one token.
 *
 * Contiguous is the layout of the Ring Attention paper (arXiv 2310.01889); striped is Striped Attention (arXiv 2311.09431);
 * zigzag gives rank r the runs r and 2n-1-r of 2n, so that with a causal mask every rank has as many early as late tokens.
 */
import { expectInteger, expectOneOf } from "../shape.ts";
import type { RingLayout, TokenRange } from "./types.ts";

/** Most ranks of one ring. */
export const MAX_WORLD_SIZE = 64;

/** What {@link shardTokens} spreads: tokens at positions `start` to `start + count - 1`. */
export interface ShardOptions {
  /** Position of the first token. Default 0. */
  start?: number;
  /** 0 or more. */
  count: number;
  /** 1 to 64. */
  worldSize: number;
  layout: RingLayout;
}

/** How many of the positions `start` to `start + count - 1` are `rank` modulo `worldSize`. */
function stripeCount(start: number, count: number, worldSize: number, rank: number): number {
  const first = (((rank - start) % worldSize) + worldSize) % worldSize;
  return first >= count ? 0 : Math.floor((count - 1 - first) / worldSize) + 1;
}

/**
 * Token ranges of every rank, rank 0 first, positions ascending within a rank.
 *
 * A longer sequence may come chunk by chunk, each chunk sharded by itself. In every layout a rank takes as many tokens of
 * a chunk as the chunk has positions that are `rank` modulo `worldSize`, so after any chunks at all (one token each, while
 * decoding) the ranks hold equally many, give or take one. Under `striped` the tokens are those very positions, and the
 * stripes go on across chunks. Under `contiguous` and `zigzag` the runs are laid out within the chunk: its queries are what
 * has to be balanced, for they all see everything that came before it.
 * @throws {OptionError} for a worldSize outside 1..64, an unknown layout, or a negative start or count.
 */
export function shardTokens(options: ShardOptions): TokenRange[][] {
  const { start = 0, count, worldSize, layout } = options;
  expectInteger("shardTokens", "worldSize", worldSize, 1, MAX_WORLD_SIZE);
  expectInteger("shardTokens", "start", start, 0);
  expectInteger("shardTokens", "count", count, 0);
  expectOneOf("shardTokens", "layout", layout, ["contiguous", "zigzag", "striped"]);
  const counts = Array.from({ length: worldSize }, (_, rank) => stripeCount(start, count, worldSize, rank));
  if (layout === "striped")
    return counts.map((tokens, rank) => {
      const first = start + ((((rank - start) % worldSize) + worldSize) % worldSize);
      return tokens > 0 ? [{ start: first, stride: worldSize, count: tokens }] : [];
    });
  const runs: { rank: number; tokens: number }[] = counts.map((tokens, rank) => ({
    rank,
    tokens: layout === "zigzag" ? Math.ceil(tokens / 2) : tokens,
  }));
  if (layout === "zigzag")
    for (let rank = worldSize - 1; rank >= 0; rank--) runs.push({ rank, tokens: Math.floor(counts[rank]! / 2) });
  const shards: TokenRange[][] = counts.map(() => []);
  let next = start;
  for (const { rank, tokens } of runs) {
    const last = shards[rank]!.at(-1);
    // The two middle runs of a zigzag touch: one range.
    if (last && last.start + last.count === next) last.count += tokens;
    else if (tokens > 0) shards[rank]!.push({ start: next, stride: 1, count: tokens });
    next += tokens;
  }
  return shards;
}

/** Tokens in all ranges together. */
export const tokenCount = (ranges: readonly TokenRange[]): number =>
  ranges.reduce((sum, range) => sum + range.count, 0);

/** Position of a range's last token. */
export const lastPosition = (range: TokenRange): number => range.start + (range.count - 1) * range.stride;

/** The positions of all tokens, one after the other. */
export function* positionsOf(ranges: readonly TokenRange[]): Generator<number> {
  for (const range of ranges) for (let i = 0; i < range.count; i++) yield range.start + i * range.stride;
}

/** Cuts ranges into pieces of at most `most` tokens each, in the same order. */
export function cutRanges(ranges: readonly TokenRange[], most: number): TokenRange[] {
  const pieces: TokenRange[] = [];
  for (const { start, stride, count } of ranges)
    for (let done = 0; done < count; done += most)
      pieces.push({ start: start + done * stride, stride, count: Math.min(most, count - done) });
  return pieces;
}
