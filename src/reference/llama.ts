/**
 * The oracle of a whole model: a LLaMA-family forward pass on the CPU, in float64 (or, to know what a plain computation
 * loses, in float32). It reads Hugging Face's `config.json` on its own and shares no code with what it judges.
 *
 * Letters: T new tokens, S tokens so far with the new ones, C hiddenSize, H heads, K kvHeads, D headDim, V vocabulary.
 */
import { type RopeConfig, ropeTable } from "./rope-frequencies.ts";

/** The fields of `config.json` that the forward pass needs, under their Hugging Face names. */
export interface ReferenceConfig extends RopeConfig {
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads?: number;
  rms_norm_eps?: number;
  tie_word_embeddings?: boolean;
  hidden_act?: string;
  sliding_window?: number | null;
  use_sliding_window?: boolean;
  max_window_layers?: number;
  layer_types?: readonly string[] | null;
  model_type?: string;
}

/** Weights by their Hugging Face names, row-major `[out, in]`. */
export type ReferenceWeights = ReadonlyMap<string, ArrayLike<number>>;

type Numbers = Float64Array | Float32Array;
type Precision = "f64" | "f32";

/** Sum of a[i] * b[i] in float64. */
function dot64(a: ArrayLike<number>, aOffset: number, b: ArrayLike<number>, bOffset: number, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += a[aOffset + i]! * b[bOffset + i]!;
  return sum;
}

/** The same, rounded to float32 after every operation. */
function dot32(a: ArrayLike<number>, aOffset: number, b: ArrayLike<number>, bOffset: number, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum = Math.fround(sum + Math.fround(a[aOffset + i]! * b[bOffset + i]!));
  return sum;
}

/** One head of one token: its query and output start at `offset`. */
interface HeadOfToken {
  query: Numbers;
  output: Numbers;
  offset: number;
  /** `[S, D]` of the head's kv head */
  keys: Numbers;
  values: Numbers;
  /** Keys of rows `from` and later are seen, up to `to`, exclusive. */
  from: number;
  to: number;
  headDim: number;
  scores: Numbers;
}

/** Softmax attention of one head in float64: scores, their maximum, probabilities, the mixed values. */
function attend64({ query, output, offset, keys, values, from, to, headDim, scores }: HeadOfToken): void {
  const scale = 1 / Math.sqrt(headDim);
  let max = Number.NEGATIVE_INFINITY;
  for (let s = from; s < to; s++) {
    const score = dot64(query, offset, keys, s * headDim, headDim) * scale;
    if (score > max) max = score;
    scores[s] = score;
  }
  let sum = 0;
  for (let s = from; s < to; s++) sum += scores[s] = Math.exp(scores[s]! - max);
  for (let s = from; s < to; s++) {
    const probability = scores[s]! / sum;
    for (let d = 0; d < headDim; d++) output[offset + d]! += probability * values[s * headDim + d]!;
  }
}

/** The same, rounded to float32 after every operation (written out twice because one shared text runs 3x slower). */
function attend32({ query, output, offset, keys, values, from, to, headDim, scores }: HeadOfToken): void {
  const { fround } = Math;
  const scale = fround(1 / Math.sqrt(headDim));
  let max = Number.NEGATIVE_INFINITY;
  for (let s = from; s < to; s++) {
    const score = fround(dot32(query, offset, keys, s * headDim, headDim) * scale);
    if (score > max) max = score;
    scores[s] = score;
  }
  let sum = 0;
  for (let s = from; s < to; s++) sum = fround(sum + (scores[s] = fround(Math.exp(fround(scores[s]! - max)))));
  for (let s = from; s < to; s++) {
    const probability = fround(scores[s]! / sum);
    for (let d = 0; d < headDim; d++) output[offset + d]! += fround(probability * values[s * headDim + d]!);
  }
}

/** Keys and values of one layer, `[K, S, D]`: each head's own array, so that a query runs straight through it. */
interface LayerCache {
  keys: Numbers[];
  values: Numbers[];
}

/** A model on the CPU, with its KV cache. */
export class LlamaReference {
  private readonly caches: LayerCache[];
  private readonly heads: number;
  private readonly kvHeads: number;
  private readonly headDim: number;
  private readonly dot: typeof dot64;
  private readonly round: (value: number) => number;
  private position = 0;

  /**
   * @param config `config.json`
   * @param weights by Hugging Face name
   * @param precision "f64": the oracle. "f32": every sum and product rounded to float32, as plain code would compute.
   */
  constructor(
    private readonly config: ReferenceConfig,
    private readonly weights: ReferenceWeights,
    private readonly precision: Precision = "f64",
  ) {
    this.heads = config.num_attention_heads;
    this.kvHeads = config.num_key_value_heads ?? this.heads;
    this.headDim = config.head_dim ?? config.hidden_size / this.heads;
    this.dot = precision === "f64" ? dot64 : dot32;
    this.round = precision === "f64" ? (value) => value : Math.fround;
    const empty = () => Array.from({ length: this.kvHeads }, () => this.numbers(0));
    this.caches = Array.from({ length: config.num_hidden_layers }, () => ({ keys: empty(), values: empty() }));
  }

  /**
   * Appends tokens to the context and returns the logits `[V]` after the last of them.
   * @param ropeLength sequence length that dynamic NTK scaling sees; the context's length unless given.
   */
  forward(ids: readonly number[], ropeLength = this.position + ids.length): Float64Array {
    const { hidden_size: width, num_hidden_layers: layerCount } = this.config;
    const embedding = this.weight("model.embed_tokens.weight");
    let rows = ids.map((id) => this.numbers(width, (i) => embedding[id * width + i]!));
    for (let layer = 0; layer < layerCount; layer++) {
      // Only the last row's logits are asked for, so the last layer works for that row alone.
      rows = this.attention(layer, rows, ropeLength, layer === layerCount - 1 ? ids.length - 1 : 0);
      rows = rows.map((row) => this.mlp(layer, row));
    }
    this.position += ids.length;
    const last = this.norm(rows.at(-1)!, this.weight("model.norm.weight"), 0, width);
    const head = this.weights.get("lm_head.weight") ?? embedding;
    return Float64Array.from({ length: this.config.vocab_size }, (_, id) => this.dot(last, 0, head, id * width, width));
  }

  /** x + o_proj(attention(norm(x))) for the rows from `firstRow`; keys and values are kept of all. */
  private attention(layer: number, rows: Numbers[], ropeLength: number, firstRow: number): Numbers[] {
    const { heads, kvHeads, headDim } = this;
    const name = `model.layers.${layer}.`;
    const newKeys: Numbers[] = [];
    const newValues: Numbers[] = [];
    const normed = rows.map((row) => this.norm(row, this.weight(`${name}input_layernorm.weight`), 0, row.length));
    const queries = normed.map((row) => this.linear(row, `${name}self_attn.q_proj`, heads * headDim));
    normed.forEach((row, index) => {
      const key = this.linear(row, `${name}self_attn.k_proj`, kvHeads * headDim);
      this.headNorm(queries[index]!, `${name}self_attn.q_norm.weight`);
      this.headNorm(key, `${name}self_attn.k_norm.weight`);
      const table = ropeTable(this.config, headDim, this.position + index, ropeLength);
      this.rotate(queries[index]!, table);
      this.rotate(key, table);
      newKeys.push(key);
      newValues.push(this.linear(row, `${name}self_attn.v_proj`, kvHeads * headDim));
    });
    const cache = this.caches[layer]!;
    const keys = (cache.keys = cache.keys.map((head, index) => this.appended(head, newKeys, index)));
    const values = (cache.values = cache.values.map((head, index) => this.appended(head, newValues, index)));
    const window = this.window(layer);
    return rows.slice(firstRow).map((row, offset) => {
      const index = firstRow + offset;
      const mixed = this.attend(queries[index]!, keys, values, this.position + index, window);
      return this.add(row, this.linear(mixed, `${name}self_attn.o_proj`, row.length));
    });
  }

  /** Softmax attention of one token `[H, D]` over the keys at positions (position - window, position]. */
  private attend(query: Numbers, keys: Numbers[], values: Numbers[], position: number, window: number): Numbers {
    const { heads, kvHeads, headDim } = this;
    const output = this.numbers(heads * headDim);
    const scores = this.numbers(position + 1);
    const attendHead = this.precision === "f64" ? attend64 : attend32;
    const from = Math.max(0, position - window + 1);
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / (heads / kvHeads));
      const kv = { keys: keys[kvHead]!, values: values[kvHead]! };
      attendHead({ query, output, offset: head * headDim, ...kv, from, to: position + 1, headDim, scores });
    }
    return output;
  }

  /** One head's rows `[S, D]` with those of new tokens `[K, D]` behind them. */
  private appended(head: Numbers, tokens: readonly Numbers[], index: number): Numbers {
    const { headDim } = this;
    const all = this.numbers(head.length + tokens.length * headDim);
    all.set(head);
    for (const [token, row] of tokens.entries())
      all.set(row.subarray(index * headDim, (index + 1) * headDim), head.length + token * headDim);
    return all;
  }

  /** x + down(silu(gate(norm(x))) * up(norm(x))) */
  private mlp(layer: number, row: Numbers): Numbers {
    const name = `model.layers.${layer}.`;
    const { intermediate_size: inner } = this.config;
    const normed = this.norm(row, this.weight(`${name}post_attention_layernorm.weight`), 0, row.length);
    const gate = this.linear(normed, `${name}mlp.gate_proj`, inner);
    const up = this.linear(normed, `${name}mlp.up_proj`, inner);
    const activated = this.numbers(inner, (i) => this.round(this.activation(gate[i]!) * up[i]!));
    return this.add(row, this.linear(activated, `${name}mlp.down_proj`, row.length));
  }

  private activation(x: number): number {
    const name = this.config.hidden_act ?? "silu";
    if (name === "silu") return this.round(x / (1 + Math.exp(-x)));
    if (name === "gelu_pytorch_tanh" || name === "gelu_new")
      return this.round(0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))));
    throw new Error(`reference: no activation ${name}`);
  }

  /** weight x (+ bias where the model has one), `[out]` */
  private linear(x: Numbers, name: string, outputs: number): Numbers {
    const weight = this.weight(`${name}.weight`);
    const bias = this.weights.get(`${name}.bias`);
    const { dot } = this;
    return this.numbers(outputs, (row) => dot(x, 0, weight, row * x.length, x.length) + (bias ? bias[row]! : 0));
  }

  /** RMSNorm (arXiv 1910.07467) of `count` numbers from `offset`. */
  private norm(x: Numbers, weight: ArrayLike<number>, offset: number, count: number): Numbers {
    const mean = this.round(this.dot(x, offset, x, offset, count) / count);
    const factor = this.round(1 / Math.sqrt(mean + (this.config.rms_norm_eps ?? 1e-6)));
    return this.numbers(count, (i) => this.round(x[offset + i]! * factor) * weight[i]!);
  }

  /** Qwen3: RMSNorm of each head by itself, in place, where the model has the weight. */
  private headNorm(x: Numbers, name: string): void {
    const weight = this.weights.get(name);
    if (!weight) return;
    for (let offset = 0; offset < x.length; offset += this.headDim)
      x.set(this.norm(x, weight, offset, this.headDim), offset);
  }

  /** Rotary embedding (arXiv 2104.09864), halves convention: (x[i], x[i + D/2]) turn together. In place. */
  private rotate(x: Numbers, { cos, sin }: { cos: Float64Array; sin: Float64Array }): void {
    const { round } = this;
    const half = cos.length;
    for (let offset = 0; offset < x.length; offset += this.headDim)
      for (let i = 0; i < half; i++) {
        const a = x[offset + i]!;
        const b = x[offset + half + i]!;
        const [c, s] = [round(cos[i]!), round(sin[i]!)];
        x[offset + i] = round(a * c) - round(b * s);
        x[offset + half + i] = round(b * c) + round(a * s);
      }
  }

  /** Keys with `queryPosition - keyPosition < window` are seen in this layer. */
  private window(layer: number): number {
    const { layer_types, sliding_window, use_sliding_window, max_window_layers, model_type } = this.config;
    const size = sliding_window ?? Number.POSITIVE_INFINITY;
    if (layer_types) return layer_types[layer] === "sliding_attention" ? size : Number.POSITIVE_INFINITY;
    if (model_type === "mistral") return size;
    if (model_type === "qwen2" || model_type === "qwen3")
      return use_sliding_window && layer >= (max_window_layers ?? 0) ? size : Number.POSITIVE_INFINITY;
    return Number.POSITIVE_INFINITY;
  }

  private add(a: Numbers, b: Numbers): Numbers {
    return this.numbers(a.length, (i) => a[i]! + b[i]!);
  }

  private weight(name: string): ArrayLike<number> {
    const weight = this.weights.get(name);
    if (!weight) throw new Error(`reference: no weight ${name}`);
    return weight;
  }

  /** An array in this precision; storing rounds to float32 where that is the precision. */
  private numbers(length: number, fill?: (index: number) => number): Numbers {
    const array = this.precision === "f64" ? new Float64Array(length) : new Float32Array(length);
    if (fill) for (let i = 0; i < length; i++) array[i] = fill(i);
    return array;
  }
}

/** Index of the largest; the first of equals. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
