/**
 * The tree along which a decode step asks and answers: binary, over the ranks of an epoch, rooted at the leader's. Each rank
 * hears the query from its parent, passes it on to two children, and sends one merged answer back. Pure.
 *
 * So a token costs every link of the tree one query down and one answer up per layer, whatever the context: no K/V moves.
 */
import { ShapeError } from "../errors.ts";
import type { PartialAttention } from "../ring/rank-types.ts";
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

/**
 * The attention over two sets of tokens, from that over each: outputs weighted by their share of the sum of exponentials. In
 * float64 on the CPU: a few thousand numbers. Where one side saw nothing (lse -inf) the other's answer is returned as it is.
 * @throws {ShapeError} where the two do not answer the same queries.
 */
export function mergePartials(
  a: PartialAttention,
  b: PartialAttention,
  heads: number,
  headDim: number,
): PartialAttention {
  const rows = a.lse.length;
  const count = rows / heads;
  const isSame = b.lse.length === rows && [a, b].every(({ output }) => output.length === rows * headDim);
  if (!isSame || !Number.isInteger(count))
    throw new ShapeError(
      `mergePartials: expected two answers of [n, ${heads}, ${headDim}] with lse [${heads}, n], got ${a.output.length} with ${rows} and ${b.output.length} with ${b.lse.length}`,
    );
  const output = new Float32Array(a.output.length);
  const lse = new Float32Array(rows);
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < count; row++) {
      const [one, other] = [a.lse[head * count + row]!, b.lse[head * count + row]!];
      const most = Math.max(one, other);
      // exp(-inf - -inf) would be NaN.
      const [p, q] = most === Number.NEGATIVE_INFINITY ? [0, 0] : [Math.exp(one - most), Math.exp(other - most)];
      lse[head * count + row] = p + q === 0 ? Number.NEGATIVE_INFINITY : most + Math.log(p + q);
      const [shareA, shareB] = p + q === 0 ? [0, 0] : [p / (p + q), q / (p + q)];
      const at = (row * heads + head) * headDim;
      for (let i = at; i < at + headDim; i++) {
        // A side that saw nothing must not count, whatever its output says.
        output[i] = (shareA > 0 ? shareA * a.output[i]! : 0) + (shareB > 0 ? shareB * b.output[i]! : 0);
      }
    }
  return { output, lse };
}
