// Attention, workgroup design: a tile of 64 query rows (one per invocation) meets one K/V block, TILE_KV keys at a time.
//
// Tiling: a workgroup stages TILE_KV keys, then their values, in workgroup memory, where all its invocations read the same
// element at once (a broadcast). Workgroup memory: 16 KiB or less (TILE_KV x 64 lanes of vec4<f32> for head size 256, fewer
// keys fill it for smaller heads: see tiles.ts). Registers: TILE_KV scores, and acc as LANES_E vec4.
// Online softmax in base 2 (FlashAttention, arXiv 2205.14135). For GPUs, where barriers are cheap; on SwiftShader, where
// they are not, the register design is several times faster: measured there on a busy machine, f32, 8 heads x 64, 1024
// tokens: 0.4 GFLOP/s, 5% of the multiply-add peak of the same run. Not yet measured on a GPU.
// Bench: SwiftShader in Chrome: design-tile-512 f32 277 ms, 1.94 GFLOP/s (4.8% of FMA peak).

const WORKGROUP_SIZE: u32 = 64u;
const TILE_KV: u32 = 16u;
/// Under a causal mask the last rows have most to do: whether they begin first.
const LONGEST_FIRST: bool = true;
const LANES_TILE: u32 = TILE_KV * max(LANES_D, LANES_E);

var<workgroup> tile: array<vec4<f32>, LANES_TILE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = params.seq_len * GROUP;
  let tiles = (rows + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
  let units = params.batch * params.kv_heads;
  let index = group.y * groups.x + group.x;
  let b = index % units / params.kv_heads;
  let k = index % params.kv_heads;
  let split = index / units / tiles;
  let turn = index / units % tiles;
  let first_row = select(turn, tiles - 1u - turn, CAUSAL && LONGEST_FIRST) * WORKGROUP_SIZE;
  if (split >= params.splits || first_row >= rows) { return; }

  let row = min(first_row + local, rows - 1u);
  let t = row / GROUP;
  let h = k * GROUP + row % GROUP;
  let q_at = row_at(params.q_skip + b * params.q_batch + t * params.q_token + h * params.q_head);
  let k_base = params.k_skip + b * params.k_batch + k * params.k_head;
  let v_base = params.v_skip + b * params.v_batch + k * params.v_head;
  let visible = visible_keys(b, t);
  // Positions ascend: the tile's first row begins first, its last row ends last.
  let last_row = min(first_row + WORKGROUP_SIZE, rows) - 1u;
  let start = max(visible_keys(b, first_row / GROUP).x, split * params.split_keys);
  let stop = min(visible_keys(b, last_row / GROUP).y, (split + 1u) * params.split_keys);

  var acc: array<vec4<f32>, LANES_E>;
  for (var e = 0u; e < LANES_E; e++) { acc[e] = begin_acc(split, b, h, t, e); }
  var row_max = begin_max(split, b, h, t);
  var row_sum = begin_sum(split, b, h, t);
  var scores: array<f32, TILE_KV>;
  for (var s = start; s < stop; s += TILE_KV) {
    workgroupBarrier();
    for (var i = local; i < TILE_KV * LANES_D; i += WORKGROUP_SIZE) {
      let key_row = row_at(k_base + min(s + i / LANES_D, params.kv_len - 1u) * params.k_token);
      tile[i] = key_lane(key_row, i % LANES_D);
    }
    workgroupBarrier();
    // Zeroed by hand: on SwiftShader a variable declared in a loop kept what it held the turn before.
    for (var j = 0u; j < TILE_KV; j++) { scores[j] = 0.0; }
    for (var d = 0u; d < LANES_D; d++) {
      let q = query_lane(q_at, d);
      for (var j = 0u; j < TILE_KV; j++) { scores[j] += dot(q, tile[j * LANES_D + d]); }
    }
    var new_max = row_max;
    for (var j = 0u; j < TILE_KV; j++) {
      var score = HIDDEN;
      if (s + j >= visible.x && s + j < min(visible.y, stop)) {
        score = pair_score(b, h, t, s + j, scaled_score(scores[j]));
      }
      scores[j] = score;
      new_max = max(new_max, score);
    }
    let shrink = weight(row_max, new_max);
    row_max = new_max;
    row_sum *= shrink;
    for (var j = 0u; j < TILE_KV; j++) {
      scores[j] = weight(scores[j], new_max);
      row_sum += scores[j];
    }
    workgroupBarrier();
    for (var i = local; i < TILE_KV * LANES_E; i += WORKGROUP_SIZE) {
      let value_row = row_at(v_base + min(s + i / LANES_E, params.kv_len - 1u) * params.v_token);
      tile[i] = value_lane(value_row, i % LANES_E);
    }
    workgroupBarrier();
    for (var e = 0u; e < LANES_E; e++) {
      var lane = acc[e] * shrink;
      for (var j = 0u; j < TILE_KV; j++) { lane += scores[j] * tile[j * LANES_E + e]; }
      acc[e] = lane;
    }
  }
  if (first_row + local >= rows) { return; }
  let factor = end_row(split, b, h, t, row_max, row_sum);
  for (var e = 0u; e < LANES_E; e++) { end_acc(split, b, h, t, e, acc[e] * factor); }
}
