/**
 * Who computes and keeps which tokens. Pure: from what is missing, how fast everyone is and how much room they have, to token
 * ranges per rank. Every token goes to exactly one rank, nothing is padded, and nobody gets more than fits.
 */
import { OptionError, PeerError } from "../errors.ts";
import { cutRanges, MAX_WORLD_SIZE, shardTokens, tokenCount } from "../ring/shard.ts";
import type { RingLayout, TokenRange } from "../ring/types.ts";
import { expectInteger, expectOneOf } from "../shape.ts";
import { ascendingRanges, pickRanges } from "./holdings.ts";

/** Rounds in which ranks take turns under an uneven `striped`: bounds the ranges, and the imbalance to about 1 in 64. */
const STRIPE_ROUNDS = 64;

const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0);

function checkWeights(where: string, name: string, values: readonly number[], worldSize: number): void {
  if (values.length === worldSize && values.every((value) => value >= 0)) return;
  throw new OptionError(`${where}: expected ${worldSize} ${name} of at least 0, got [${values.join(", ")}]`);
}

/**
 * Divides `count` tokens in proportion to `weights` by largest remainders (ties to the lower rank), nobody above its room;
 * what does not fit goes to the others in the same proportion.
 * @param weights 0: gets nothing while others have room.
 * @param room Tokens that each can still take. Default: no bounds.
 * @throws {PeerError} where all rooms together are less than `count`.
 */
export function sharesOf(
  count: number,
  weights: readonly number[],
  room: readonly number[] = weights.map(() => Number.POSITIVE_INFINITY),
): number[] {
  checkWeights("sharesOf", "weights", weights, weights.length);
  checkWeights("sharesOf", "rooms", room, weights.length);
  const most = room.map(Math.floor);
  if (sum(most) < count)
    throw new PeerError(
      `sharesOf: expected room for ${count} tokens, got room for ${sum(most)} on ${most.length} ranks`,
    );
  const shares = weights.map(() => 0);
  let open = [...weights.keys()].filter((rank) => most[rank]! > 0);
  let left = count;
  while (left > 0) {
    // Those who are left once every rank with a speed is full share alike.
    if (open.every((rank) => weights[rank] === 0)) {
      for (const [i, share] of sharesOf(
        left,
        open.map(() => 1),
        open.map((rank) => most[rank]!),
      ).entries())
        shares[open[i]!] = share;
      return shares;
    }
    const total = sum(open.map((rank) => weights[rank]!));
    const ideal = new Map(open.map((rank) => [rank, (left * weights[rank]!) / total]));
    const full = open.filter((rank) => ideal.get(rank)! >= most[rank]!);
    if (full.length > 0) {
      for (const rank of full) {
        shares[rank] = most[rank]!;
        left -= most[rank]!;
      }
      open = open.filter((rank) => !full.includes(rank));
      continue;
    }
    for (const rank of open) shares[rank] = Math.floor(ideal.get(rank)!);
    const remainder = (rank: number) => ideal.get(rank)! - shares[rank]!;
    const byRemainder = open.map((rank) => ({ rank, remainder: remainder(rank) }));
    byRemainder.sort((a, b) => b.remainder - a.remainder || a.rank - b.rank);
    const over = left - sum(open.map((rank) => shares[rank]!));
    for (const { rank } of byRemainder.slice(0, over)) shares[rank]!++;
    left = 0;
  }
  return shares;
}

/** What {@link planShards} divides, and among whom. */
export interface ShardPlanOptions {
  /** Each position once, in any order: a span of the prompt, or what was lost. */
  tokens: readonly TokenRange[];
  /** 1 to 64. */
  worldSize: number;
  layout: RingLayout;
  /** Speed of every rank, in any unit. Default: all alike. */
  weights?: readonly number[] | undefined;
  /** Tokens that each rank can still take. Default: no bounds. */
  room?: readonly number[] | undefined;
}

/** A rank takes `count` tokens from the `first`-th on, every `stride`-th. */
interface Run {
  rank: number;
  first: number;
  stride: number;
  count: number;
}

/** Who takes which places of `0 to sum(shares) - 1`, places ascending within a rank. */
function layOut(layout: RingLayout, shares: readonly number[]): Run[] {
  const worldSize = shares.length;
  const count = sum(shares);
  const runs: Run[] = [];
  let first = 0;
  const take = (rank: number, tokens: number) => {
    if (tokens > 0) runs.push({ rank, first, stride: 1, count: tokens });
    first += tokens;
  };
  if (layout === "contiguous") shares.forEach((tokens, rank) => void take(rank, tokens));
  if (layout === "zigzag") {
    shares.forEach((tokens, rank) => void take(rank, Math.ceil(tokens / 2)));
    for (let rank = worldSize - 1; rank >= 0; rank--) take(rank, Math.floor(shares[rank]! / 2));
  }
  if (layout === "striped") {
    // Lower ranks have the remainder, as in shardTokens: even shares are true stripes.
    if (shares.every((tokens, rank) => tokens === Math.ceil((count - rank) / worldSize)))
      return shares.map((tokens, rank) => ({ rank, first: rank, stride: worldSize, count: tokens }));
    // Uneven ones are runs in proportion, round after round; every other round backwards, so that nobody is always first.
    const rounds = Math.min(STRIPE_ROUNDS, Math.ceil(count / worldSize));
    const upTo = (rank: number, round: number) => Math.floor((round * shares[rank]!) / rounds + 0.5);
    for (let round = 0; round < rounds; round++)
      for (let i = 0; i < worldSize; i++) {
        const rank = round % 2 === 0 ? i : worldSize - 1 - i;
        take(rank, upTo(rank, round + 1) - upTo(rank, round));
      }
  }
  return runs;
}

/**
 * Divides tokens so that all finish at the same time: in proportion to their speeds, within their room. Every rank's tokens
 * have the same mean position under `zigzag` (a run from the front, its mirror from the back) and `striped` (turns), so that
 * work under a causal mask goes with the number of tokens; `contiguous` is as in the paper and leaves the last ranks more.
 * With speeds alike it is `shardTokens`.
 * @returns ranges of every rank, rank 0 first, positions ascending.
 * @throws {OptionError} for a worldSize outside of 1..64, an unknown layout, or negative weights or rooms.
 * @throws {PeerError} where the tokens do not fit.
 */
export function planShards(options: ShardPlanOptions): TokenRange[][] {
  const { worldSize, layout } = options;
  expectInteger("planShards", "worldSize", worldSize, 1, MAX_WORLD_SIZE);
  expectOneOf("planShards", "layout", layout, ["contiguous", "zigzag", "striped"]);
  const weights = options.weights ?? Array.from({ length: worldSize }, () => 1);
  const room = options.room ?? weights.map(() => Number.POSITIVE_INFINITY);
  checkWeights("planShards", "weights", weights, worldSize);
  checkWeights("planShards", "rooms", room, worldSize);
  const tokens = ascendingRanges(options.tokens);
  const [span] = tokens;
  const isEven = weights.every((weight) => weight === weights[0]);
  if (isEven && span && tokens.length === 1 && span.stride === 1) {
    const even = shardTokens({ start: span.start, count: span.count, worldSize, layout });
    if (even.every((ranges, rank) => tokenCount(ranges) <= room[rank]!)) return even;
  }
  const shards: TokenRange[][] = weights.map(() => []);
  for (const run of layOut(layout, sharesOf(tokenCount(tokens), weights, room)))
    for (const range of pickRanges(tokens, run.first, run.stride, run.count)) {
      const shard = shards[run.rank]!;
      const last = shard.at(-1);
      if (last?.stride === 1 && range.stride === 1 && last.start + last.count === range.start)
        last.count += range.count;
      else shard.push(range);
    }
  return shards;
}

/** What {@link planNextOp} takes its tokens from. */
export interface OpPlanOptions extends ShardPlanOptions {
  /** Most tokens that any rank computes in one op: bounds its activations, and the time until a stop is heard. */
  tokensPerRank: number;
}

/** One op, and what is left for the next. */
export interface PlannedOp {
  /** Tokens of every rank. */
  shards: TokenRange[][];
  rest: TokenRange[];
}

/**
 * The next op: the first of the tokens, as many as the fastest rank can take in one op at its share, divided by
 * {@link planShards}. Ascending, because a token's layers need the K/V of all tokens before it, computed earlier or in the same
 * op. The tokens that are left are spread evenly over the ops that are left. Planned one at a time, so that the next one knows the
 * speeds that this one showed.
 * @throws {PeerError} where the tokens, all of them, do not fit: nothing is begun that cannot be finished.
 */
export function planNextOp(options: OpPlanOptions): PlannedOp {
  const { worldSize, layout } = options;
  expectInteger("planNextOp", "worldSize", worldSize, 1, MAX_WORLD_SIZE);
  const perRank = expectInteger("planNextOp", "tokensPerRank", options.tokensPerRank);
  const weights = options.weights ?? Array.from({ length: worldSize }, () => 1);
  const room = options.room ?? weights.map(() => Number.POSITIVE_INFINITY);
  checkWeights("planNextOp", "weights", weights, worldSize);
  checkWeights("planNextOp", "rooms", room, worldSize);
  const tokens = ascendingRanges(options.tokens);
  const count = tokenCount(tokens);
  if (count === 0) return { shards: weights.map(() => []), rest: [] };
  sharesOf(count, weights, room);
  const most = room.map((left) => Math.min(perRank, Math.floor(left)));
  // Those who are full give nothing to wait for: the share of the fastest of the others counts.
  const open = weights.filter((_, rank) => most[rank]! > 0);
  const largest = Math.max(...open) / sum(open) || 1 / open.length;
  const size = Math.max(1, Math.min(sum(most), Math.floor(perRank / largest)));
  const taken = Math.min(size, Math.ceil(count / Math.ceil(count / size)));
  return {
    shards: planShards({ tokens: pickRanges(tokens, 0, 1, taken), worldSize, layout, weights, room: most }),
    rest: pickRanges(tokens, taken, 1, count - taken),
  };
}

/**
 * Who computes which tokens, op by op: the missing ones after a peer has gone (the survivors in proportion to their speeds,
 * within their room), or a prompt at speeds that do not change. What is held is not touched; a lost token is computed against
 * all before it, held or missing.
 * @returns per op, the tokens of every rank.
 * @throws {PeerError} where there is no room for them.
 */
export function planRecovery(options: OpPlanOptions): TokenRange[][][] {
  const room = [...(options.room ?? Array.from({ length: options.worldSize }, () => Number.POSITIVE_INFINITY))];
  const ops: TokenRange[][][] = [];
  for (let tokens = options.tokens; tokenCount(tokens) > 0; ) {
    const { shards, rest } = planNextOp({ ...options, tokens, room });
    for (const [rank, ranges] of shards.entries()) room[rank]! -= tokenCount(ranges);
    ops.push(shards);
    tokens = rest;
  }
  return ops;
}

/**
 * The rank that keeps the next decoded token's K/V: the one with most room, the lower one of equals.
 * @param room Tokens that each can still take.
 * @throws {PeerError} where nobody has any.
 */
export function planKeeper(room: readonly number[]): number {
  const most = Math.max(0, ...room);
  if (most < 1) throw new PeerError(`planKeeper: expected room for one token, got none on ${room.length} ranks`);
  return room.indexOf(most);
}

/** Committed tokens that go from one rank to another. */
export interface TokenMove {
  from: number;
  to: number;
  ranges: TokenRange[];
}

/** What {@link planMoves} evens out. */
export interface MovePlanOptions {
  /** What every rank holds, the joiner's included. */
  held: readonly (readonly TokenRange[])[];
  /** The rank that has come. */
  joiner: number;
  /** What the tokens should be in proportion to: memory offered, or speed. Default: all alike. */
  weights?: readonly number[] | undefined;
  /** Tokens that the joiner can take. */
  room: number;
  /** Most tokens to move now: joining must not hold everyone up. */
  mostTokens: number;
}

/**
 * Which committed tokens go to a peer that has come, so that everyone holds its share: those with more than theirs give, in
 * proportion to the excess, the last ones that they hold.
 */
export function planMoves(options: MovePlanOptions): TokenMove[] {
  const { held, joiner, room, mostTokens } = options;
  expectInteger("planMoves", "joiner", joiner, 0, held.length - 1);
  const weights = options.weights ?? held.map(() => 1);
  checkWeights("planMoves", "weights", weights, held.length);
  if (sum(weights) === 0) return [];
  const counts = held.map(tokenCount);
  const targets = sharesOf(sum(counts), weights);
  const excess = counts.map((count, rank) => (rank === joiner ? 0 : Math.max(0, count - targets[rank]!)));
  const wanted = Math.min(targets[joiner]! - counts[joiner]!, Math.floor(room), mostTokens, sum(excess));
  if (wanted <= 0) return [];
  return sharesOf(wanted, excess, excess)
    .map((count, from) => {
      const own = ascendingRanges(held[from]!);
      return { from, to: joiner, ranges: pickRanges(own, counts[from]! - count, 1, count) };
    })
    .filter(({ ranges }) => ranges.length > 0);
}

/** Cuts a move into pieces that one parcel carries. @param tokensPerPiece 1 or more. */
export function cutMove(move: TokenMove, tokensPerPiece: number): TokenMove[] {
  expectInteger("cutMove", "tokensPerPiece", tokensPerPiece);
  const pieces: TokenMove[] = [];
  let open: TokenRange[] = [];
  for (const range of cutRanges(move.ranges, tokensPerPiece)) {
    if (open.length > 0 && tokenCount(open) + range.count > tokensPerPiece) {
      pieces.push({ ...move, ranges: open });
      open = [];
    }
    open.push(range);
  }
  return open.length > 0 ? [...pieces, { ...move, ranges: open }] : pieces;
}
