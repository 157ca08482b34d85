// Vanilla attention: three passes that materialise the scores [B, H, T, S] (f32, base 2), as the formula stands. The yardstick
// that the fused kernels are compared with: one invocation per score, per row, per lane of the output; nothing is tiled,
// nothing sits in workgroup memory.
// Bench: SwiftShader in Chrome: design-vanilla-512 f32 562 ms, 0.956 GFLOP/s (2.4% of FMA peak).

const WORKGROUP_SIZE: u32 = 64u;
@group(0) @binding(14) var<storage, read_write> scores: array<f32>;

struct Row { b: u32, h: u32, t: u32 }

fn head_count() -> u32 { return params.kv_heads * GROUP; }

fn row_of(row: u32) -> Row {
  return Row(row / params.seq_len / head_count(), row / params.seq_len % head_count(), row % params.seq_len);
}

fn invocation(id: vec3<u32>, groups: vec3<u32>) -> u32 { return id.y * groups.x * WORKGROUP_SIZE + id.x; }

@compute @workgroup_size(WORKGROUP_SIZE)
fn score_pairs(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = invocation(id, groups);
  if (index >= params.batch * head_count() * params.seq_len * params.kv_len) { return; }
  let at = row_of(index / params.kv_len);
  let s = index % params.kv_len;
  let visible = visible_keys(at.b, at.t);
  var score = HIDDEN;
  if (s >= visible.x && s < visible.y) {
    let q_at = row_at(params.q_skip + at.b * params.q_batch + at.t * params.q_token + at.h * params.q_head);
    let k_at = row_at(params.k_skip + at.b * params.k_batch + s * params.k_token + at.h / GROUP * params.k_head);
    var product = 0.0;
    for (var d = 0u; d < LANES_D; d++) { product += dot(query_lane(q_at, d), key_lane(k_at, d)); }
    score = pair_score(at.b, at.h, at.t, s, scaled_score(product));
  }
  scores[index] = score;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn softmax_rows(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let row = invocation(id, groups);
  if (row >= params.batch * head_count() * params.seq_len) { return; }
  let at = row_of(row);
  let first = row * params.kv_len;
  var row_max = HIDDEN;
  for (var s = 0u; s < params.kv_len; s++) { row_max = max(row_max, scores[first + s]); }
  var row_sum = 0.0;
  for (var s = 0u; s < params.kv_len; s++) { row_sum += weight(scores[first + s], row_max); }
  let factor = end_row(0u, at.b, at.h, at.t, row_max, row_sum);
  for (var s = 0u; s < params.kv_len; s++) { scores[first + s] = weight(scores[first + s], row_max) * factor; }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn weigh_values(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = invocation(id, groups);
  let row = index / LANES_E;
  let lane = index % LANES_E;
  if (row >= params.batch * head_count() * params.seq_len) { return; }
  let at = row_of(row);
  let v_at = params.v_skip + at.b * params.v_batch + at.h / GROUP * params.v_head;
  var acc = vec4<f32>();
  for (var s = 0u; s < params.kv_len; s++) {
    acc += scores[row * params.kv_len + s] * value_lane(row_at(v_at + s * params.v_token), lane);
  }
  end_acc(0u, at.b, at.h, at.t, lane, acc);
}
