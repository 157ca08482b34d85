// Global positions of queries and keys, and what they make visible. Positions ascend, so causal, block-causal and
// sliding-window masks and valid lengths all leave each query one run of keys [first, end): a kernel compares indices
// and never looks at a position inside its loops.

const CAUSAL: bool = false;
/// 1: plain causal.
const CAUSAL_BLOCK: u32 = 1u;
/// 0: no window.
const WINDOW: u32 = 0u;

@group(0) @binding(7) var<storage, read> query_positions: array<u32>;
@group(0) @binding(8) var<storage, read> kv_positions: array<u32>;

fn query_position(b: u32, t: u32) -> u32 {
  if (params.q_listed == 0u) { return params.q_start + t * params.q_step; }
  return query_positions[params.q_list_skip + select(0u, b * params.seq_len, params.q_listed == 2u) + t];
}

fn kv_position(b: u32, s: u32) -> u32 {
  if (params.kv_listed == 0u) { return params.kv_start + s * params.kv_step; }
  return kv_positions[params.kv_list_skip + select(0u, b * params.kv_len, params.kv_listed == 2u) + s];
}

/// How many keys of the block have a position below `position`.
fn keys_below(b: u32, position: u32) -> u32 {
  if (params.kv_listed == 0u) {
    if (position <= params.kv_start) { return 0u; }
    return min(params.kv_len, (position - params.kv_start - 1u) / params.kv_step + 1u);
  }
  var low = 0u;
  var high = params.kv_len;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (kv_position(b, middle) < position) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}

/// The run [x, y) of key indices that position masks let query t of batch entry b see; empty where x >= y.
fn visible_keys(b: u32, t: u32) -> vec2<u32> {
  var first = 0u;
  var end = params.kv_len;
  if (HAS_LENGTHS) { end = keys_below(b, kv_length(b)); }
  if (CAUSAL || WINDOW > 0u) {
    let position = query_position(b, t);
    if (CAUSAL) { end = min(end, keys_below(b, (position / CAUSAL_BLOCK + 1u) * CAUSAL_BLOCK)); }
    if (WINDOW > 0u) {
      if (position + 1u > WINDOW) { first = keys_below(b, position + 1u - WINDOW); }
      if (!CAUSAL) { end = min(end, keys_below(b, position + WINDOW)); }
    }
  }
  return vec2<u32>(first, end);
}
