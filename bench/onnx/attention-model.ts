/** onnxruntime's fused attention as a model of one node, for the comparison of kernels. */
import { encodeOnnxModel } from "./model-file.ts";

/** What the node is told. */
export interface MultiHeadAttentionModel {
  heads: number;
  headDim: number;
  isCausal: boolean;
  /** Factor of the scores; absent: 1 / sqrt(headDim). */
  scale?: number;
  dtype?: "f32" | "f16";
}

/**
 * A model file with one com.microsoft.MultiHeadAttention: inputs `query` [B, T, H*D], `key` and `value` [B, S, H*D], output
 * `output` [B, T, H*D]; B, T and S are free.
 * Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
 */
export function multiHeadAttentionModel(options: MultiHeadAttentionModel): Uint8Array<ArrayBuffer> {
  const { heads, headDim, isCausal, scale, dtype = "f32" } = options;
  const value = (name: string, tokens: string) => ({ name, dtype, dims: ["batch", tokens, heads * headDim] });
  return encodeOnnxModel({
    name: "multi-head-attention",
    inputs: [value("query", "tokens"), value("key", "kvTokens"), value("value", "kvTokens")],
    outputs: [value("output", "tokens")],
    nodes: [
      {
        ...{ op: "MultiHeadAttention", domain: "com.microsoft" },
        ...{ inputs: ["query", "key", "value"], outputs: ["output"] },
        attributes: {
          num_heads: { int: heads },
          unidirectional: { int: isCausal ? 1 : 0 },
          ...(scale !== undefined && { scale: { float: scale } }),
        },
      },
    ],
  });
}
