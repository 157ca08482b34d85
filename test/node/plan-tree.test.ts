/** The tree of a decode step: one root, everyone once, bytes that do not know the context. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/errors.ts";
import { decodeBytes, isOnPath, treeDepth, treePlace } from "../../src/peers/tree.ts";

const trees = fc
  .integer({ min: 1, max: 64 })
  .chain((worldSize) => fc.tuple(fc.constant(worldSize), fc.integer({ min: 0, max: worldSize - 1 })));

describe("the tree over ranks", () => {
  it("reaches every rank once from the leader, in few hops; parent and children agree", () => {
    fc.assert(
      fc.property(trees, ([worldSize, root]) => {
        const depth = new Map([[root, 0]]);
        const open = [root];
        for (let rank = open.shift(); rank !== undefined; rank = open.shift()) {
          const { children } = treePlace(rank, root, worldSize);
          expect(children.length).toBeLessThanOrEqual(2);
          for (const child of children) {
            expect(depth.has(child)).toBe(false);
            depth.set(child, depth.get(rank)! + 1);
            expect(treePlace(child, root, worldSize).parent).toBe(rank);
            open.push(child);
          }
        }
        expect(depth.size).toBe(worldSize);
        expect(treePlace(root, root, worldSize).parent).toBeUndefined();
        expect(Math.max(...depth.values())).toBe(treeDepth(worldSize));
      }),
    );
  });

  it("knows who is on the way to a rank", () => {
    fc.assert(
      fc.property(trees, ([worldSize, root]) => {
        for (let rank = 0; rank < worldSize; rank++) {
          const path = [rank];
          for (
            let at = treePlace(rank, root, worldSize).parent;
            at !== undefined;
            at = treePlace(at, root, worldSize).parent
          )
            path.push(at);
          for (let via = 0; via < worldSize; via++)
            expect(isOnPath(via, rank, root, worldSize)).toBe(path.includes(via));
        }
      }),
      { numRuns: 20 },
    );
  });

  it("bytes per token and layer are those of a query and an answer, with no context in them", () => {
    // LLaMA 3 8B: 32 query heads, 8 key/value heads of 128: 16 KiB down, 8 KiB more to the keeper, 16 KiB + lse up.
    expect(decodeBytes({ heads: 32, kvHeads: 8, headDim: 128 })).toEqual({ ask: 16_384, keep: 8192, answer: 16_512 });
    expect(decodeBytes.length).toBe(1);
  });

  it("refuses ranks outside of the world", () => {
    expect(() => treePlace(3, 0, 3)).toThrow(OptionError);
    expect(() => treePlace(0, -1, 3)).toThrow(OptionError);
  });
});
