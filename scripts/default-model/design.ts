/** Sizes and scales of the default model; the derivation is in scripts/build-model.ts. */

/** Bytes that have to agree for an exact match. */
export const MATCH_LENGTH = 16;
/** Bytes that the second, backing-off head looks at. */
export const BACKOFF_LENGTH = 8;

export const HIDDEN_SIZE = 128;
export const HEADS = 2;
export const HEAD_DIM = 64;
export const INTERMEDIATE_SIZE = 16;
export const ROPE_THETA = 1e37;
export const SLIDING_WINDOW = 16;
export const RMS_NORM_EPS = 1e-6;
export const MAX_POSITIONS = 1048576;

export const BOS_ID = 256;
export const EOS_ID = 257;
export const NEWLINE_ID = 10;
export const VOCAB_SIZE = 258;

/** Numbers in a match code; 16 of them fill the 48 slow dimensions of a head. */
export const CODE_DIM = 3;
/** First channel of the copy code (64 channels). */
export const COPY_CHANNEL = 0;
/** First channel of slot `offset` (3 channels): the match code of the byte `offset` places back. */
export const slotChannel = (offset: number): number => 64 + CODE_DIM * offset;
/** Holds {@link CONSTANT} in every token. */
export const CONSTANT_CHANNEL = slotChannel(MATCH_LENGTH + 1);
/** Holds 1 in BOS only: what the first head looks at where nothing matches. */
export const SINK_CHANNEL = CONSTANT_CHANNEL + 1;

/** Size of the constant channel; the other channels' squares sum to 2 at first and 18 in the end, against its 16384. */
export const CONSTANT = 128;
/** Length of a copy code in the residual stream: small, so that the byte just read hardly counts in the answer. */
export const COPY_SIZE = 1 / 16;
/** Query and key amplitude of an offset head on each of its frequencies: 64 * 64 / sqrt(64) = 512 logits. */
export const OFFSET_AMPLITUDE = 64;
/** Query and key amplitude of a match code: 128 * 128 / sqrt(64) = 2048 logits per byte that agrees. */
export const MATCH_AMPLITUDE = 128;
/** How far below an exact match BOS stands for the first head, in logits. */
export const SINK_MARGIN = 24;
/** What the exact and the backing-off head write into the copy section, in lengths of a code. */
export const COPY_WEIGHTS = [4, 2] as const;
/** How often the last layer adds the copy section to itself. */
export const ECHO_WEIGHT = 1;
/** Logits at the output per length of a code. */
export const OUTPUT_SCALE = 16;

/** Rotary pairs that turn fast enough to tell offsets apart, 1 to 1.7e-6 radians per token. */
export const FAST_PAIRS = 6;
/** The pair of the sink: 8e-9 radians per token. */
export const SINK_PAIR = 7;
/** First of the pairs that hold match codes: 5.6e-10 radians per token and less. */
export const FIRST_SLOW_PAIR = 8;

/** Radians per token of rotary pair `pair` (dimensions `pair` and `pair + 32`). */
export const pairFrequency = (pair: number): number => ROPE_THETA ** ((-2 * pair) / HEAD_DIM);

/** Head dimension of number `index` of the 48 that match codes fill. */
export function slowDimension(index: number): number {
  const half = HEAD_DIM / 2;
  const width = half - FIRST_SLOW_PAIR;
  return index < width ? FIRST_SLOW_PAIR + index : half + FIRST_SLOW_PAIR + (index - width);
}

/** A sliding layer: each head copies slots `0..groupSize-1` of the token `offset` back into the slots from `offset` on. */
export interface OffsetLayer {
  groupSize: number;
  /** One per head. */
  offsets: readonly number[];
}

/** With slots 0..k-1 known, an offset of k doubles them; so three layers of two heads fill slots 1 to 16. */
export const OFFSET_LAYERS: readonly OffsetLayer[] = [
  { groupSize: 1, offsets: [1, 2] },
  { groupSize: 3, offsets: [3, 6] },
  { groupSize: 4, offsets: [9, 13] },
];

/** config.json of the default model. */
export const modelConfig = () => ({
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: HIDDEN_SIZE,
  intermediate_size: INTERMEDIATE_SIZE,
  num_hidden_layers: OFFSET_LAYERS.length + 2,
  num_attention_heads: HEADS,
  num_key_value_heads: 1,
  head_dim: HEAD_DIM,
  vocab_size: VOCAB_SIZE,
  max_position_embeddings: MAX_POSITIONS,
  rms_norm_eps: RMS_NORM_EPS,
  rope_theta: ROPE_THETA,
  rope_scaling: null,
  layer_types: [...OFFSET_LAYERS.map(() => "sliding_attention"), "full_attention", "sliding_attention"],
  sliding_window: SLIDING_WINDOW,
  hidden_act: "silu",
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: true,
  bos_token_id: BOS_ID,
  eos_token_id: [EOS_ID, NEWLINE_ID],
  torch_dtype: "float16",
});
