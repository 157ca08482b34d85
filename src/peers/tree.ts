/**
 * The tree along which a decode step asks and answers: binary, over the ranks of an epoch, rooted at the leader's. Each rank
 * hears the query from its parent, passes it on to two children, and sends one merged answer back. Pure.
 *
 * So a token costs every link of the tree one query down and one answer up per layer, whatever the context: no K/V moves.
 */
import { expectInteger } from "../shape.ts";

/** A rank's place in the tree. */
export interface TreePlace {
  /** Undefined at the root. */
  parent: number | undefined;
  /** None, one or two ranks. */
  children: number[];
}

/**
 * Where `rank` is in the tree of `worldSize` ranks rooted at `root`: ranks are counted from the root on, and the i-th has the
 * (2i+1)-th and (2i+2)-th for children.
 * @throws {OptionError} for ranks outside of the world.
 */
export function treePlace(rank: number, root: number, worldSize: number): TreePlace {
  expectInteger("treePlace", "worldSize", worldSize);
  expectInteger("treePlace", "rank", rank, 0, worldSize - 1);
  expectInteger("treePlace", "root", root, 0, worldSize - 1);
  const toRank = (index: number) => (index + root) % worldSize;
  const index = (rank - root + worldSize) % worldSize;
  return {
    parent: index === 0 ? undefined : toRank((index - 1) >> 1),
    children: [2 * index + 1, 2 * index + 2].filter((child) => child < worldSize).map(toRank),
  };
}

/** Links between the root and the rank that is farthest away. */
export const treeDepth = (worldSize: number): number => Math.floor(Math.log2(worldSize));

/** Sizes that {@link decodeBytes} needs. */
export interface DecodeShape {
  heads: number;
  kvHeads: number;
  headDim: number;
}

/**
 * Payload bytes of one token and layer over one link of the tree, f32: the query `[H, D]` down (with the token's key and value
 * `[K, D]` on the way to the rank that keeps it), output `[H, D]` and lse `[H]` up. Nothing here knows the context's length.
 */
export function decodeBytes({ heads, kvHeads, headDim }: DecodeShape): { ask: number; keep: number; answer: number } {
  return { ask: heads * headDim * 4, keep: 2 * kvHeads * headDim * 4, answer: heads * (headDim + 1) * 4 };
}

/** True where the way from the root to `rank` goes through `via` (or `via` is `rank`): who has to pass a key and value on. */
export function isOnPath(via: number, rank: number, root: number, worldSize: number): boolean {
  for (let at: number | undefined = rank; at !== undefined; at = treePlace(at, root, worldSize).parent)
    if (at === via) return true;
  return false;
}
