/**
 * What travels in one pass around a ring over links, and how far. Every rank derives it from the same plan, so nobody has to
 * be told, and nothing comes that is not awaited. Pure.
 */
import { OptionError } from "../errors.ts";
import { expectInteger, expectOneOf } from "../shape.ts";
import { checkRanges, intervalOf, lowerBound, sortedPositions } from "./positions.ts";
import type { RingPlace } from "./rank-types.ts";
import { isIntervalHidden, type MaskRule, visibleKeys } from "./schedule.ts";
import { MAX_WORLD_SIZE } from "./shard.ts";
import type { TokenRange } from "./types.ts";

/** A plan's ranges are the same for every layer of an operation: they are sorted once. */
const sorted = new WeakMap<readonly TokenRange[], Uint32Array<ArrayBuffer>>();

/** Positions of a list of the plan, ascending. @throws {OptionError} where one comes twice. */
function positionsIn(where: string, ranges: readonly TokenRange[]): Uint32Array<ArrayBuffer> {
  let list = sorted.get(ranges);
  if (!list) sorted.set(ranges, (list = sortedPositions(where, ranges)));
  return list;
}

/** Who sends what to whom in one pass; see the module's comment. */
export interface RingPlan {
  /** Positions that a rank's block holds, ascending. */
  held(rank: number): Uint32Array<ArrayBuffer>;
  /** Positions of the owner's block that any other rank's query may see, ascending: what travels of it. */
  travelling(owner: number): Uint32Array<ArrayBuffer>;
  /** Whether the owner's block goes over the link into `rank`: that rank or one after it may see something of it. */
  hasBlock(owner: number, rank: number): boolean;
  /** Whether `rank`'s block may be seen by the owner's queries. */
  sees(owner: number, rank: number): boolean;
  /** Whether the owner's queries go over the link into `rank`: that rank or one after it may show them something. */
  hasQuery(owner: number, rank: number): boolean;
  /** Whether a state of the owner's queries goes over the link into `rank`: a rank before it has shown them something. */
  hasState(owner: number, rank: number): boolean;
}

/** Ranks `first, first + 1, ...` up to, but without, `end` (around the ring). */
function* ranksFrom(first: number, end: number, worldSize: number): Generator<number> {
  for (let rank = first; rank !== end; rank = (rank + 1) % worldSize) yield rank;
}

/** @throws {OptionError} where the place contradicts itself. */
export function checkPlace(where: string, place: RingPlace): void {
  const worldSize = expectInteger(where, "place.worldSize", place.worldSize, 1, MAX_WORLD_SIZE);
  expectInteger(where, "place.rank", place.rank, 0, worldSize - 1);
  expectOneOf(where, "place.rotation", place.rotation, ["keyValue", "query"]);
  expectOneOf(where, "place.wireDtype", place.wireDtype, ["f32", "f16"]);
  for (const name of ["queries", "held"] as const) {
    if (place[name].length !== worldSize)
      throw new OptionError(
        `${where}: expected place.${name} of ${worldSize} ranks (worldSize), got ${place[name].length}`,
      );
    for (const ranges of place[name]) checkRanges(where, `place.${name}`, ranges);
  }
  if (worldSize > 1 && !(place.next && place.previous))
    throw new OptionError(
      `${where}: expected links to the next and from the previous of ${worldSize} ranks, got next ${typeof place.next} and previous ${typeof place.previous}`,
    );
}

/** @throws {OptionError} where a rank is to hold a position twice. */
export function planRing(where: string, place: RingPlace, rule: MaskRule): RingPlan {
  const { worldSize, queries, held } = place;
  const queryIntervals = queries.map(intervalOf);
  const travelling = held.map((ranges, owner) => {
    const all = positionsIn(where, ranges);
    const others = queryIntervals.filter((interval, rank) => interval && rank !== owner);
    if (others.length === 0) return all.subarray(0, 0);
    const first = Math.min(...others.map((interval) => interval!.min));
    const last = Math.max(...others.map((interval) => interval!.max));
    const seen = visibleKeys(first, last, rule);
    return all.subarray(lowerBound(all, seen.first), lowerBound(all, seen.last + 1));
  });
  const sees = (owner: number, rank: number): boolean => {
    const asking = queryIntervals[owner];
    const block = intervalOf(held[rank]!);
    return !!asking && !!block && !isIntervalHidden(asking.min, asking.max, block.min, block.max, rule);
  };
  /** [owner of the queries][owner of the block] */
  const table = queries.map((_, owner) => held.map((_, rank) => sees(owner, rank)));
  const some = (ranks: Iterable<number>, test: (rank: number) => boolean) => {
    for (const rank of ranks) if (test(rank)) return true;
    return false;
  };
  return {
    held: (rank) => positionsIn(where, held[rank]!),
    travelling: (owner) => travelling[owner]!,
    sees: (owner, rank) => table[owner]![rank]!,
    hasBlock: (owner, rank) => some(ranksFrom(rank, owner, worldSize), (reader) => table[reader]![owner]!),
    hasQuery: (owner, rank) => some(ranksFrom(rank, owner, worldSize), (shower) => table[owner]![shower]!),
    hasState: (owner, rank) =>
      some(ranksFrom((owner + 1) % worldSize, rank, worldSize), (shower) => table[owner]![shower]!),
  };
}
