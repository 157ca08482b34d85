// The call of an attention kernel: sizes, strides and positions. Strides, skips and offsets count elements, not bytes.
// Written by src/kernels/attention-params.ts, field by field in this order.

const HEADS: u32 = 8u;
const KV_HEADS: u32 = 8u;
const HEAD_DIM: u32 = 64u;
const VALUE_DIM: u32 = 64u;

/// Query heads that share one K/V head (grouped-query attention).
const GROUP: u32 = HEADS / KV_HEADS;
/// Score of a hidden pair, and the maximum of a row that has seen nothing: finite, so that no inf - inf can arise.
const HIDDEN: f32 = -3.0e38;
/// Scores below it are hidden (an additive mask may hold -inf).
const HIDDEN_LIMIT: f32 = -1.0e38;
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

struct AttentionParams {
  batch: u32, seq_len: u32, kv_len: u32, is_first: u32,
  q_batch: u32, q_token: u32, q_head: u32, q_skip: u32,
  k_batch: u32, k_token: u32, k_head: u32, k_skip: u32,
  v_batch: u32, v_token: u32, v_head: u32, v_skip: u32,
  // Of the output, or of acc in the state.
  o_batch: u32, o_token: u32, o_head: u32, o_skip: u32,
  // In the state: where rowMax and rowSum begin. Key splits: keys of one, and elements between their states.
  max_skip: u32, sum_skip: u32, split_keys: u32, split_stride: u32,
  lse_skip: u32, has_lse: u32, splits: u32, negative_infinity: f32,
  // 0: start + i * step. 1: listed, one list for the batch. 2: listed, one list per batch entry.
  q_listed: u32, q_start: u32, q_step: u32, q_list_skip: u32,
  kv_listed: u32, kv_start: u32, kv_step: u32, kv_list_skip: u32,
  q_segment_skip: u32, kv_segment_skip: u32, length_skip: u32, sink_skip: u32,
  mask_batch: u32, mask_head: u32, mask_row: u32, mask_column: u32,
  mask_rows: u32, mask_columns: u32, mask_kv_origin: u32, mask_skip: u32,
  // mask_from_first: the mask's first row is that of query mask_first (which wraps below 0 in a piece of a call).
  mask_q_origin: u32, mask_from_first: u32, mask_first: u32, kv_heads: u32,
  lse_batch: u32, lse_head: u32,
  // Scores times score_scale are in base 2, or with softcap the argument of tanh; then times softcap_scale.
  score_scale: f32, softcap_scale: f32,
}

@group(0) @binding(0) var<uniform> params: AttentionParams;
