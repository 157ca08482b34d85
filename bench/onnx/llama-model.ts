/**
 * A decoder of the LLaMA family as an ONNX model, for onnxruntime: the same graph that src/model/ runs, node for node what
 * onnxruntime's own exporters write (com.microsoft's GroupQueryAttention and SkipSimplifiedLayerNormalization), and with what our
 * model leaves out left out here too: logits of the last token only, and nothing but that token behind the last layer's attention.
 *
 * Letters: T new tokens, P tokens before them, C hiddenSize, H heads, K kvHeads, D headDim, V vocabulary.
 * Source of the operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
 */
import { elementCount } from "../../src/shape.ts";
import { encodeOnnxModel, type OnnxAttribute, type OnnxInitializer, type OnnxNode } from "./model-file.ts";

/** What the graph needs of a model's config.json. */
export interface LlamaShape {
  hiddenSize: number;
  intermediateSize: number;
  layerCount: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabSize: number;
  rmsNormEps: number;
  ropeTheta: number;
  tieWordEmbeddings: boolean;
}

/** A weight that the model expects in a file beside it, to be handed to onnxruntime as external data. */
export interface LlamaWeight {
  /** Name of the file, and of the initializer. */
  path: string;
  /** Hugging Face's name, e.g. "model.layers.3.mlp.up_proj.weight". */
  source: string;
  /** As in the safetensors file; matrices `[out, in]`. */
  shape: readonly number[];
  /** The file holds `[in, out]`, as MatMul reads it. */
  isTransposed: boolean;
}

/** A model file and the files beside it. */
export interface LlamaModel {
  model: Uint8Array<ArrayBuffer>;
  weights: LlamaWeight[];
  /** It has the input `position`. */
  takesPosition: boolean;
}

/** GroupQueryAttention turns heads of multiples of this itself; for others rope is a node of its own. */
const ROPE_HEAD_DIM = 16;

/** Names of one layer's cache, as the model's inputs and outputs have them. */
export const cacheNames = (layer: number) =>
  ["key", "value"].map((part) => ({
    past: `past_key_values.${layer}.${part}`,
    present: `present.${layer}.${part}`,
  }));

/** cos and sin of every position, `[positions, D/2]` each. */
function ropeCaches({ headDim, ropeTheta }: LlamaShape, positions: number): Float32Array<ArrayBuffer>[] {
  const half = headDim / 2;
  return [Math.cos, Math.sin].map((wave) =>
    Float32Array.from({ length: positions * half }, (_, index) =>
      wave(Math.floor(index / half) * ropeTheta ** ((-2 * (index % half)) / headDim)),
    ),
  );
}

/** The nodes of a graph under construction. */
class Graph {
  readonly nodes: OnnxNode[] = [];
  readonly initializers: OnnxInitializer[] = [];
  readonly weights: LlamaWeight[] = [];

  add(op: string, inputs: readonly string[], outputs: readonly string[], more: Partial<OnnxNode> = {}): string {
    this.nodes.push({ op, inputs, outputs, name: outputs.find((name) => name !== "") ?? op, ...more });
    return outputs[0]!;
  }

  /** A weight in a file of its own. */
  weight(source: string, shape: readonly number[], isTransposed: boolean): string {
    const path = isTransposed ? `${source}.transposed` : source;
    if (this.weights.some((weight) => weight.path === path)) return path;
    this.weights.push({ path, source, shape, isTransposed });
    const external = { path, byteOffset: 0, byteLength: 4 * elementCount(shape) };
    this.initializers.push({ name: path, dtype: "f32", dims: isTransposed ? [...shape].reverse() : shape, external });
    return path;
  }

  /** x times a weight `[out, in]`. */
  linear(input: string, source: string, outFeatures: number, inFeatures: number): string {
    return this.add("MatMul", [input, this.weight(source, [outFeatures, inFeatures], true)], [`${source}.output`]);
  }

  constant(name: string, dtype: "f32" | "i64", dims: readonly number[], data: ArrayBufferView): string {
    this.initializers.push({ name, dtype, dims, data });
    return name;
  }
}

/** com.microsoft's operators. */
const contrib = (attributes: Record<string, OnnxAttribute>): Partial<OnnxNode> => ({
  domain: "com.microsoft",
  attributes,
});

/** The newest token's row of `[1, T, C]`. */
const lastRow = (graph: Graph, input: string, last: string): string =>
  graph.add("Gather", [input, last], [`${input}.last`], { attributes: { axis: { int: 1 } } });

/**
 * The model file. Inputs: `input_ids` i32 `[1, T]`, `seqlens_k` i32 `[1]` (P + T - 1), `total_sequence_length` i32 scalar (P + T),
 * `position` i64 `[1]` (P; only where headDim is no multiple of 16), and per layer `past_key_values.N.key` and `.value` f32 `[1, K, P or more, D]`. Outputs: `logits` f32 `[1, 1, V]`, and per layer
 * `present.N.key` and `.value`, `[1, K, P + T or more, D]`: give the same buffer for past and present, and nothing is copied.
 * @param positions Tokens that fit (rows of the rope table).
 */
export function llamaModel(shape: LlamaShape, positions: number): LlamaModel {
  const { hiddenSize: width, intermediateSize: inner, layerCount, heads, kvHeads, headDim, vocabSize } = shape;
  const graph = new Graph();
  const [cos, sin] = ropeCaches(shape, positions);
  const ropeDims = [positions, headDim / 2];
  const rope = [graph.constant("cos_cache", "f32", ropeDims, cos!), graph.constant("sin_cache", "f32", ropeDims, sin!)];
  const last = graph.constant("last", "i64", [1], new BigInt64Array([-1n]));
  const epsilon = { epsilon: { float: shape.rmsNormEps } };
  const embedding = graph.weight("model.embed_tokens.weight", [vocabSize, width], false);
  let hidden = graph.add("Gather", [embedding, "input_ids"], ["embedded"]);
  let normed = graph.add(
    "SimplifiedLayerNormalization",
    [hidden, graph.weight("model.layers.0.input_layernorm.weight", [width], false)],
    ["normed"],
    { attributes: { axis: { int: -1 }, ...epsilon } },
  );
  /** The norm of hidden + addition; the sum goes on as hidden. */
  const addNorm = (addition: string, source: string): void => {
    const [sum, norm] = [`${source}.sum`, `${source}.normed`];
    const inputs = [addition, hidden, graph.weight(source, [width], false)];
    normed = graph.add("SkipSimplifiedLayerNormalization", inputs, [norm, "", "", sum], contrib(epsilon));
    hidden = sum;
  };
  const isRopeFused = headDim % ROPE_HEAD_DIM === 0;
  const rotate = (input: string) =>
    graph.add("RotaryEmbedding", [input, "position", ...rope], [`${input}.rotated`], contrib({}));
  for (let layer = 0; layer < layerCount; layer++) {
    const at = `model.layers.${layer}.`;
    const [key, value] = cacheNames(layer);
    const query = graph.linear(normed, `${at}self_attn.q_proj.weight`, heads * headDim, width);
    const keys = graph.linear(normed, `${at}self_attn.k_proj.weight`, kvHeads * headDim, width);
    const values = graph.linear(normed, `${at}self_attn.v_proj.weight`, kvHeads * headDim, width);
    const turned = isRopeFused ? [query, keys] : [query, keys].map(rotate);
    const past = [key!.past, value!.past, "seqlens_k", "total_sequence_length", ...(isRopeFused ? rope : [])];
    let attended = graph.add(
      "GroupQueryAttention",
      [...turned, values, ...past],
      [`${at}attended`, key!.present, value!.present],
      contrib({ num_heads: { int: heads }, kv_num_heads: { int: kvHeads }, do_rotary: { int: isRopeFused ? 1 : 0 } }),
    );
    if (layer === layerCount - 1) {
      attended = lastRow(graph, attended, last);
      hidden = lastRow(graph, hidden, last);
    }
    const projected = graph.linear(attended, `${at}self_attn.o_proj.weight`, width, heads * headDim);
    addNorm(projected, `${at}post_attention_layernorm.weight`);
    const gate = graph.linear(normed, `${at}mlp.gate_proj.weight`, inner, width);
    const up = graph.linear(normed, `${at}mlp.up_proj.weight`, inner, width);
    const sigmoid = graph.add("Sigmoid", [gate], [`${at}mlp.sigmoid`]);
    const silu = graph.add("Mul", [gate, sigmoid], [`${at}mlp.silu`]);
    const gated = graph.add("Mul", [silu, up], [`${at}mlp.gated`]);
    const down = graph.linear(gated, `${at}mlp.down_proj.weight`, width, inner);
    addNorm(down, layer === layerCount - 1 ? "model.norm.weight" : `model.layers.${layer + 1}.input_layernorm.weight`);
  }
  const head = graph.weight(
    shape.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight",
    [vocabSize, width],
    true,
  );
  graph.add("MatMul", [normed, head], ["logits"]);
  const cacheDims = (tokens: string) => [1, kvHeads, tokens, headDim];
  const caches = Array.from({ length: layerCount }, (_, layer) => cacheNames(layer)).flat();
  const model = encodeOnnxModel({
    name: "llama",
    inputs: [
      { name: "input_ids", dtype: "i32", dims: [1, "tokens"] },
      { name: "seqlens_k", dtype: "i32", dims: [1] },
      { name: "total_sequence_length", dtype: "i32", dims: [] },
      ...(isRopeFused ? [] : [{ name: "position", dtype: "i64" as const, dims: [1] }]),
      ...caches.map(({ past }) => ({ name: past, dtype: "f32" as const, dims: cacheDims("past_tokens") })),
    ],
    outputs: [
      { name: "logits", dtype: "f32", dims: [1, 1, vocabSize] },
      ...caches.map(({ present }) => ({ name: present, dtype: "f32" as const, dims: cacheDims("total_tokens") })),
    ],
    initializers: graph.initializers,
    nodes: graph.nodes,
  });
  return { model, weights: graph.weights, takesPosition: !isRopeFused };
}

/** `[rows, columns]` to `[columns, rows]`, block by block: both sides stay within the caches. */
export function transpose(values: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const transposed = new Float32Array(rows * columns);
  const block = 32;
  for (let firstRow = 0; firstRow < rows; firstRow += block)
    for (let firstColumn = 0; firstColumn < columns; firstColumn += block)
      for (let row = firstRow; row < Math.min(firstRow + block, rows); row++)
        for (let column = firstColumn; column < Math.min(firstColumn + block, columns); column++)
          transposed[column * rows + row] = values[row * columns + column]!;
  return transposed;
}

/** The bytes of a weight's file. @param values Of the source tensor, as its safetensors file orders them. */
export const weightFile = ({ shape, isTransposed }: LlamaWeight, values: Float32Array<ArrayBuffer>) =>
  isTransposed ? transpose(values, shape[0]!, shape[1]!) : values;
