/** The tree of a decode step: one root, everyone once, bytes that do not know the context. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError, ShapeError } from "../../src/errors.ts";
import { decodeBytes, isOnPath, mergePartials, treeDepth, treePlace } from "../../src/peers/tree.ts";

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

describe("merging answers", () => {
  const HEADS = 2;
  const DIM = 3;
  const COUNT = 2;
  const scores = fc.array(fc.double({ min: -30, max: 30, noNaN: true }), { maxLength: 5 });

  /** Softmax attention of every head and row over keys of the given scores; value of key i is [i, i^2, 1]. */
  function answerOf(keys: readonly { score: number; id: number }[]) {
    const output = new Float32Array(COUNT * HEADS * DIM);
    const lse = new Float32Array(HEADS * COUNT).fill(Number.NEGATIVE_INFINITY);
    for (let head = 0; head < HEADS; head++)
      for (let row = 0; row < COUNT; row++) {
        // Every head and row sees other scores.
        const seen = keys.map(({ score, id }) => ({ score: score * (1 + head) + row * id * 0.1, id }));
        const sum = seen.reduce((total, { score }) => total + Math.exp(score), 0);
        if (sum === 0) continue;
        lse[head * COUNT + row] = Math.log(sum);
        for (const { score, id } of seen)
          for (const [i, value] of [id, id * id, 1].entries())
            output[(row * HEADS + head) * DIM + i]! += (Math.exp(score) / sum) * value;
      }
    return { output, lse };
  }

  it("is attention over the union, in any order, with sides that saw nothing", () => {
    fc.assert(
      fc.property(scores, scores, scores, (a, b, c) => {
        let id = 0;
        const lists = [a, b, c].map((list) => list.map((score) => ({ score, id: id++ })));
        const [one, two, three] = lists.map(answerOf);
        const whole = answerOf(lists.flat());
        const merge = (x: typeof whole, y: typeof whole) => mergePartials(x, y, HEADS, DIM);
        for (const merged of [merge(merge(one!, two!), three!), merge(three!, merge(one!, two!))]) {
          for (const [i, value] of whole.output.entries()) expect(merged.output[i]).toBeCloseTo(value, 3);
          for (const [i, value] of whole.lse.entries())
            if (value === Number.NEGATIVE_INFINITY) expect(merged.lse[i]).toBe(value);
            else expect(merged.lse[i]).toBeCloseTo(value, 4);
        }
      }),
    );
  });

  it("refuses answers to different queries", () => {
    const short = { output: new Float32Array(3), lse: new Float32Array(1) };
    expect(() => mergePartials(answerOf([]), short, HEADS, DIM)).toThrow(ShapeError);
    expect(() => mergePartials(short, short, HEADS, DIM)).toThrow(ShapeError);
  });
});
