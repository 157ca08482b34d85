/**
 * Named attention shapes, used by the tests and by the benches. Letters: B batch, T query tokens, S key/value tokens, H
 * heads, K kvHeads, D headDim, E valueDim.
 */
import type { AttentionOptions } from "../src/kernels/attention-types.ts";

/** One named shape with its attention options. */
export interface AttentionCase
  extends Pick<
    AttentionOptions,
    "layout" | "scale" | "softcap" | "causalBlockSize" | "window" | "mask" | "hasSegments" | "hasKvLengths" | "hasSinks"
  > {
  name: string;
  /** What it is measured or tested for: `bench` cases are too large for the ordinary tests on a CPU. */
  use: "bench" | "test";
  batch: number;
  /** T */
  seqLen: number;
  /** S */
  kvSeqLen: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  valueDim?: number;
  dtype: "f32" | "f16";
  isCausal: boolean;
  /** Position of the first query where `isCausal` or `window` counts from it; 0 unless given. */
  queryStart?: number;
}

const bench = (
  name: string,
  seqLen: number,
  kvSeqLen: number,
  isCausal: boolean,
  rest: Partial<AttentionCase> = {},
): AttentionCase => ({
  ...{ name, use: "bench", batch: 1, seqLen, kvSeqLen, heads: 8, kvHeads: 8, headDim: 64, dtype: "f32", isCausal },
  ...rest,
});

const test = (
  name: string,
  seqLen: number,
  kvSeqLen: number,
  isCausal: boolean,
  rest: Partial<AttentionCase> = {},
): AttentionCase => ({
  ...{ name, use: "test", batch: 1, seqLen, kvSeqLen, heads: 2, kvHeads: 2, headDim: 16, dtype: "f32", isCausal },
  ...rest,
});

/** What `ringwise bench` measures. FLOPs of a case: see {@link attentionFlops}. */
export const BENCH_CASES: readonly AttentionCase[] = [
  bench("prefill-1024", 1024, 1024, false),
  bench("prefill-1024-causal", 1024, 1024, true),
  bench("prefill-2048", 2048, 2048, false),
  bench("prefill-2048-causal", 2048, 2048, true),
  bench("prefill-4096", 4096, 4096, false),
  bench("prefill-4096-causal", 4096, 4096, true),
  bench("prefill-16384-causal", 16_384, 16_384, true),
  bench("window-256-of-4096", 4096, 4096, true, { window: 256 }),
  bench("softcap-1024-causal", 1024, 1024, true, { softcap: 30 }),
  bench("gqa-1024-causal", 1024, 1024, true, { kvHeads: 2 }),
  bench("gqa-32-8-dim-128", 1024, 1024, true, { heads: 32, kvHeads: 8, headDim: 128 }),
  bench("head-dim-8", 1024, 1024, true, { headDim: 8 }),
  bench("head-dim-80", 1024, 1024, true, { headDim: 80 }),
  bench("head-dim-96", 1024, 1024, true, { headDim: 96 }),
  bench("head-dim-128", 1024, 1024, true, { headDim: 128 }),
  bench("head-dim-256", 1024, 1024, true, { headDim: 256 }),
  bench("decode-1024", 1, 1024, true, { queryStart: 1023 }),
  bench("decode-4096", 1, 4096, true, { queryStart: 4095 }),
  bench("decode-16384", 1, 16_384, true, { queryStart: 16_383 }),
  bench("decode-32768", 1, 32_768, true, { queryStart: 32_767 }),
  bench("decode-gqa-16384", 1, 16_384, true, { queryStart: 16_383, kvHeads: 2 }),
];

/** A matmul to be measured: `rows` x `inFeatures` times the weight `[outFeatures, inFeatures]`. */
export interface MatmulCase {
  name: string;
  rows: number;
  inFeatures: number;
  outFeatures: number;
}

/** What `ringwise bench` measures of matmul: a square one, and the one row of decode, which is bound by reading the weight. */
export const MATMUL_CASES: readonly MatmulCase[] = [
  { name: "matmul-1024", rows: 1024, inFeatures: 1024, outFeatures: 1024 },
  { name: "matmul-decode-2048-8192", rows: 1, inFeatures: 2048, outFeatures: 8192 },
];

/** What the conformance suite runs against every design and kind. */
export const TEST_CASES: readonly AttentionCase[] = [
  test("one-by-one", 1, 1, false),
  test("uneven", 37, 53, false, { batch: 2, heads: 3, kvHeads: 3 }),
  test("uneven-causal", 67, 67, true),
  test("causal-longer-kv", 19, 70, true, { queryStart: 51 }),
  test("causal-fewer-keys-than-queries", 40, 9, true),
  test("rows-that-see-nothing", 12, 20, true, { queryStart: 0, hasKvLengths: true, batch: 2 }),
  test("gqa", 33, 47, true, { heads: 6, kvHeads: 2, batch: 2 }),
  test("mqa", 21, 40, false, { heads: 5, kvHeads: 1 }),
  test("bhtd", 30, 41, true, { layout: "bhtd", batch: 2, heads: 4, kvHeads: 2 }),
  test("head-dim-1", 9, 14, false, { headDim: 1 }),
  test("head-dim-5-value-7", 23, 31, true, { headDim: 5, valueDim: 7 }),
  test("head-dim-8-value-10", 23, 31, false, { headDim: 8, valueDim: 10 }),
  test("head-dim-16-value-64", 20, 33, true, { valueDim: 64 }),
  test("head-dim-64", 70, 90, true, { headDim: 64, queryStart: 20 }),
  test("head-dim-80", 24, 40, true, { headDim: 80 }),
  test("head-dim-96", 24, 40, false, { headDim: 96 }),
  test("head-dim-128-value-4", 18, 35, true, { headDim: 128, valueDim: 4 }),
  test("head-dim-256", 17, 35, true, { headDim: 256 }),
  test("scale", 20, 20, false, { scale: 0.01 }),
  test("softcap", 35, 35, true, { softcap: 3 }),
  test("block-causal", 45, 45, true, { causalBlockSize: 8 }),
  test("window", 80, 80, true, { window: 17 }),
  test("window-both-sides", 60, 60, false, { window: 9 }),
  test("window-block-causal", 50, 50, true, { window: 13, causalBlockSize: 4 }),
  test("segments", 48, 48, true, { hasSegments: true, batch: 2 }),
  test("kv-lengths", 30, 50, false, { hasKvLengths: true, batch: 3 }),
  test("sinks", 40, 40, true, { hasSinks: true, heads: 4, kvHeads: 2 }),
  test("mask-additive", 28, 36, false, { mask: "additive", batch: 2, heads: 4, kvHeads: 2 }),
  test("mask-boolean", 28, 36, true, { mask: "boolean", batch: 2 }),
  test("everything", 34, 45, true, {
    ...{ batch: 2, heads: 4, kvHeads: 2, headDim: 12, valueDim: 20, softcap: 5, window: 30, causalBlockSize: 3 },
    ...{ hasSegments: true, hasKvLengths: true, hasSinks: true, mask: "additive", queryStart: 11 },
  }),
  test("decode", 1, 300, true, { queryStart: 299, heads: 4, kvHeads: 2, headDim: 32 }),
  test("decode-batch-lengths", 1, 280, true, { queryStart: 279, batch: 3, hasKvLengths: true }),
  test("decode-few-rows", 3, 260, true, { queryStart: 257, heads: 6, kvHeads: 2, hasSinks: true }),
];

/** Every named case. */
export const ATTENTION_CASES: readonly AttentionCase[] = [...BENCH_CASES, ...TEST_CASES];

/** How many of the T x S pairs causal and window masks leave. */
export function visiblePairs(attentionCase: AttentionCase): number {
  const { seqLen, kvSeqLen, isCausal, window, queryStart = 0, causalBlockSize = 1 } = attentionCase;
  let pairs = 0;
  for (let t = 0; t < seqLen; t++) {
    const position = queryStart + t;
    let end = kvSeqLen;
    if (isCausal) end = Math.min(end, (Math.floor(position / causalBlockSize) + 1) * causalBlockSize);
    if (window && !isCausal) end = Math.min(end, position + window);
    const first = window ? Math.max(0, position - window + 1) : 0;
    pairs += Math.max(0, end - first);
  }
  return pairs;
}

/** Multiplications and additions of both products over the visible pairs (so causal counts about half): 2 (D + E) each. */
export function attentionFlops(attentionCase: AttentionCase): number {
  const { batch, heads, headDim, valueDim = headDim } = attentionCase;
  return 2 * batch * heads * (headDim + valueDim) * visiblePairs(attentionCase);
}
