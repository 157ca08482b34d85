/** onnxruntime's attention of language models as a model of one node: fewer key heads, a window, a cache that is kept. */
import { encodeOnnxModel } from "./model-file.ts";

/** What the node is told. It is causal always. */
export interface GroupQueryAttentionModel {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Factor of the scores; absent: 1 / sqrt(headDim). */
  scale?: number;
  softcap?: number;
  /** Keys that a query sees, itself included; absent: all before it. */
  window?: number;
}

/**
 * A model file with one com.microsoft.GroupQueryAttention: `query` [B, T, H*D], new `key` and `value` [B, T, K*D], `pastKey` and
 * `pastValue` [B, K, C, D] (which may be the buffers of `presentKey` and `presentValue`), `lastKey` [B] (index of the last key),
 * `keyCount` [1] on the CPU; output `output` [B, T, H*D].
 * Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
 */
export function groupQueryAttentionModel(options: GroupQueryAttentionModel): Uint8Array<ArrayBuffer> {
  const { heads, kvHeads, headDim, scale, softcap, window } = options;
  const tokens = (name: string, count: number) => ({
    ...{ name, dtype: "f32" as const },
    dims: ["batch", "tokens", count * headDim],
  });
  const cache = (name: string) => ({
    ...{ name, dtype: "f32" as const },
    dims: ["batch", kvHeads, "capacity", headDim],
  });
  return encodeOnnxModel({
    name: "group-query-attention",
    inputs: [
      tokens("query", heads),
      ...[tokens("key", kvHeads), tokens("value", kvHeads), cache("pastKey"), cache("pastValue")],
      { name: "lastKey", dtype: "i32", dims: ["batch"] },
      { name: "keyCount", dtype: "i32", dims: [1] },
    ],
    outputs: [tokens("output", heads), cache("presentKey"), cache("presentValue")],
    nodes: [
      {
        ...{ op: "GroupQueryAttention", domain: "com.microsoft" },
        inputs: ["query", "key", "value", "pastKey", "pastValue", "lastKey", "keyCount"],
        outputs: ["output", "presentKey", "presentValue"],
        attributes: {
          num_heads: { int: heads },
          kv_num_heads: { int: kvHeads },
          ...(scale !== undefined && { scale: { float: scale } }),
          ...(softcap !== undefined && { softcap: { float: softcap } }),
          ...(window !== undefined && { local_window_size: { int: window } }),
        },
      },
    ],
  });
}
