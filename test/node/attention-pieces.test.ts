import * as fc from "fast-check";
import { expect, it } from "vitest";
import type { AttentionCall, CallTensor } from "../../src/kernels/attention-call.ts";
import { extentOf } from "../../src/kernels/attention-call.ts";
import { stridesOf } from "../../src/kernels/attention-params.ts";
import { cutCall } from "../../src/kernels/attention-pieces.ts";

const shapes = fc.record({
  batch: fc.integer({ min: 1, max: 3 }),
  seqLen: fc.integer({ min: 1, max: 30 }),
  kvLen: fc.integer({ min: 1, max: 30 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  group: fc.integer({ min: 1, max: 2 }),
  layout: fc.constantFrom("bthd" as const, "bhtd" as const),
  // At least what one token takes: in "bhtd" its heads of one group lie up to 30 tokens apart, and alignment takes 256 bytes.
  bindingBytes: fc.integer({ min: 1280, max: 8192 }),
  maxTokens: fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined }),
  maxKeys: fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined }),
});

it("pieces meet every (batch entry, head, query, key) exactly once, and each fits its bindings", () => {
  fc.assert(
    fc.property(shapes, ({ batch, seqLen, kvLen, kvHeads, group, layout, bindingBytes, maxTokens, maxKeys }) => {
      const tensor = (name: string, tokens: number, perKvHead: number): CallTensor => ({
        ...{ name, source: {} as GPUBuffer, dim: 8, group: perKvHead, bytesPerElement: 4 },
        strides: stridesOf(layout, tokens, kvHeads * perKvHead, 8),
      });
      const call: AttentionCall = {
        ...{ where: "test", batch, seqLen, kvLen, fields: {}, extras: [] },
        ...{ query: tensor("query", seqLen, group), output: tensor("output", seqLen, group) },
        ...{ key: tensor("key", kvLen, 1), value: tensor("value", kvLen, 1) },
      };
      const limits = { bindingBytes, seqLen: maxTokens, kvLen: maxKeys };
      const met = new Map<string, number>();
      for (const { blocks } of cutCall(call, kvHeads, limits))
        for (const piece of blocks) {
          for (const [part, start, count] of [
            [call.query, piece.queryStart, piece.seqLen],
            [call.key, piece.kvStart, piece.kvLen],
          ] as const)
            expect(extentOf(part, piece, start, count).elements * 4 + 256).toBeLessThanOrEqual(bindingBytes);
          if (maxKeys) expect(piece.kvLen).toBeLessThanOrEqual(maxKeys);
          if (maxTokens) expect(piece.batch * piece.seqLen).toBeLessThanOrEqual(Math.max(maxTokens, 1));
          for (let b = 0; b < piece.batch; b++)
            for (let h = 0; h < piece.kvHeads; h++)
              for (let t = 0; t < piece.seqLen; t++)
                for (let s = 0; s < piece.kvLen; s++) {
                  const key = [
                    piece.batchStart + b,
                    piece.headStart + h,
                    piece.queryStart + t,
                    piece.kvStart + s,
                  ].join();
                  met.set(key, (met.get(key) ?? 0) + 1);
                }
        }
      expect(met.size).toBe(batch * kvHeads * seqLen * kvLen);
      expect([...met.values()].every((times) => times === 1)).toBe(true);
    }),
    { numRuns: 200 },
  );
});

it("refuses, by name, a token that no binding holds", () => {
  const strides = stridesOf("bthd", 4, 8, 64);
  const tensor = { name: "key", source: {} as GPUBuffer, dim: 64, group: 1, bytesPerElement: 4, strides };
  const call: AttentionCall = {
    ...{
      where: "test",
      batch: 1,
      seqLen: 4,
      kvLen: 4,
      fields: {},
      extras: [],
      query: tensor,
      key: tensor,
      value: tensor,
    },
  };
  expect(() => cutCall(call, 8, { bindingBytes: 1024 })).toThrow(
    "test: one token of key takes 2048 bytes, and one binding holds 1024",
  );
});
