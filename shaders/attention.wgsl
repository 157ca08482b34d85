// Attention, register design: a tile of query rows meets one K/V block; no barriers, no workgroup memory.

const WORKGROUP_SIZE: u32 = 64u;
const LANES_D: u32 = HEAD_DIM / LANE;
const LANES_E: u32 = VALUE_DIM / LANE;

@group(0) @binding(1) var<storage, read> query: array<Lane>;
@group(0) @binding(2) var<storage, read> key: array<Lane>;
@group(0) @binding(3) var<storage, read> value: array<Lane>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let rows = params.seq_len * GROUP;
  let index = id.y * groups.x * WORKGROUP_SIZE + id.x;
  let bk = index % (params.batch * params.kv_heads);
  let rest = index / (params.batch * params.kv_heads);
  let row = rest % rows;
  let split = rest / rows;
  if (split >= params.splits) { return; }
  let b = bk / params.kv_heads;
  let k = bk % params.kv_heads;
  let t = row / GROUP;
  let h = k * GROUP + row % GROUP;

  let visible = visible_keys(b, t);
  let first = max(visible.x, split * params.split_keys);
  let end = min(visible.y, (split + 1u) * params.split_keys);
  let q_at = (params.q_skip + b * params.q_batch + t * params.q_token + h * params.q_head) / LANE;
  let k_at = (params.k_skip + b * params.k_batch + k * params.k_head) / LANE;
  let v_at = (params.v_skip + b * params.v_batch + k * params.v_head) / LANE;

  var acc: array<Wide, LANES_E>;
  for (var e = 0u; e < LANES_E; e++) { acc[e] = begin_acc(split, b, h, t, e); }
  var row_max = begin_max(split, b, h, t);
  var row_sum = begin_sum(split, b, h, t);
  for (var s = first; s < end; s++) {
    var product = 0.0;
    let k_row = k_at + s * params.k_token / LANE;
    for (var d = 0u; d < LANES_D; d++) { product += lane_dot(Wide(query[q_at + d]), Wide(key[k_row + d])); }
    var score = scaled_score(product);
    if (MASKS_PAIRS) { score = pair_score(b, h, t, s, score); }
    let new_max = max(row_max, score);
    let p = weight(score, new_max);
    let shrink = weight(row_max, new_max);
    row_sum = row_sum * shrink + p;
    row_max = new_max;
    let v_row = v_at + s * params.v_token / LANE;
    for (var e = 0u; e < LANES_E; e++) { acc[e] = acc[e] * shrink + p * Wide(value[v_row + e]); }
  }
  let factor = end_row(split, b, h, t, row_max, row_sum);
  for (var e = 0u; e < LANES_E; e++) { end_acc(split, b, h, t, e, acc[e] * factor); }
}
