/**
 * Who meets whose block when, and what of it is worth computing. Pure: no GPU, no clocks.
 *
 * In step i, rank r meets the block of rank (r - i) mod n; then every rank gives its block to rank r + 1 and takes the one
 * of rank r - 1. After n steps everyone has met every block once.
 */
import type { AttentionOptions } from "../kernels/attention-types.ts";
import { lastPosition } from "./shard.ts";
import type { TokenRange } from "./types.ts";

/** The part of the mask that follows from positions alone. */
export type MaskRule = Pick<AttentionOptions, "isCausal" | "causalBlockSize" | "window">;

/** Whose block `rank` meets in `step`. */
export const kvRankAt = (rank: number, step: number, worldSize: number): number =>
  (((rank - step) % worldSize) + worldSize) % worldSize;

/** To whom a rank gives the block it has met. */
export const sendRank = (rank: number, worldSize: number): number => (rank + 1) % worldSize;

/** From whom a rank takes its next block. */
export const recvRank = (rank: number, worldSize: number): number => (rank + worldSize - 1) % worldSize;

/** First position that a query at `query` may see; both ends grow with the query's position. */
const firstVisible = (query: number, rule: MaskRule): number => (rule.window ? query - rule.window + 1 : 0);

/** Last position that a query at `query` may see. */
function lastVisible(query: number, rule: MaskRule): number {
  if (!rule.isCausal) return rule.window ? query + rule.window - 1 : Number.POSITIVE_INFINITY;
  const size = rule.causalBlockSize ?? 1;
  return (Math.floor(query / size) + 1) * size - 1;
}

/** The positions that queries within `[queryMin, queryMax]` may see, together: a key outside is seen by none of them. */
export const visibleKeys = (queryMin: number, queryMax: number, rule: MaskRule): { first: number; last: number } => ({
  first: firstVisible(queryMin, rule),
  last: lastVisible(queryMax, rule),
});

/** True where the mask lets the query see the key (positions). */
export const isVisible = (query: number, key: number, rule: MaskRule): boolean =>
  key >= firstVisible(query, rule) && key <= lastVisible(query, rule);

/**
 * True where no query at a position within `[queryMin, queryMax]` sees any key within `[kvMin, kvMax]`: the pair is
 * skipped. Exact for full intervals; where the positions have gaps it may let an invisible pair through, never hide a
 * visible one.
 */
export const isIntervalHidden = (
  queryMin: number,
  queryMax: number,
  kvMin: number,
  kvMax: number,
  rule: MaskRule,
): boolean => kvMin > lastVisible(queryMax, rule) || kvMax < firstVisible(queryMin, rule);

/** True where the mask hides every key of `kv` from every query of `queries` (see {@link isIntervalHidden}). */
export const isPairHidden = (queries: readonly TokenRange[], kv: readonly TokenRange[], rule: MaskRule): boolean =>
  queries.every((query) =>
    kv.every((key) => isIntervalHidden(query.start, lastPosition(query), key.start, lastPosition(key), rule)),
  );

/** Tokens of a range at positions within `[first, last]`. */
function countWithin(range: TokenRange, first: number, last: number): number {
  const low = Math.max(0, Math.ceil((first - range.start) / range.stride));
  const high = Math.min(range.count - 1, Math.floor((last - range.start) / range.stride));
  return Math.max(0, high - low + 1);
}

/** Work of a pair: how many (query, key) pairs the mask allows. Takes time in proportion to the queries. */
export function visiblePairs(queries: readonly TokenRange[], kv: readonly TokenRange[], rule: MaskRule): number {
  const isMasked = rule.isCausal === true || rule.window !== undefined;
  let pairs = 0;
  for (const range of queries)
    for (let i = 0; i < range.count; i++) {
      const query = range.start + i * range.stride;
      for (const key of kv)
        pairs += isMasked ? countWithin(key, firstVisible(query, rule), lastVisible(query, rule)) : key.count;
    }
  return pairs;
}

/** One meeting of a query shard and a block. */
export interface ScheduledStep {
  step: number;
  rank: number;
  kvRank: number;
  /** The mask hides the whole block: nothing is computed. */
  isSkipped: boolean;
}

/** The whole ring, step by step and rank by rank, from the token ranges of every rank. */
export function ringSchedule(
  queryShards: readonly (readonly TokenRange[])[],
  kvShards: readonly (readonly TokenRange[])[],
  rule: MaskRule,
): ScheduledStep[] {
  const worldSize = queryShards.length;
  const steps: ScheduledStep[] = [];
  for (let step = 0; step < worldSize; step++)
    for (let rank = 0; rank < worldSize; rank++) {
      const kvRank = kvRankAt(rank, step, worldSize);
      steps.push({ step, rank, kvRank, isSkipped: isPairHidden(queryShards[rank]!, kvShards[kvRank]!, rule) });
    }
  return steps;
}

/** Work per rank in (query, key) pairs, over the steps that are not skipped. */
export function workPerRank(
  queryShards: readonly (readonly TokenRange[])[],
  kvShards: readonly (readonly TokenRange[])[],
  rule: MaskRule,
): number[] {
  const work = queryShards.map(() => 0);
  for (const { rank, kvRank, isSkipped } of ringSchedule(queryShards, kvShards, rule))
    if (!isSkipped) work[rank]! += visiblePairs(queryShards[rank]!, kvShards[kvRank]!, rule);
  return work;
}
