// Attention for few query rows (decode): 4 rows meet 16 keys at a time, and the keys are split over invocations (`splits`);
// each split has a state of its own, which finalize.wgsl or merge.wgsl merge (as in Flash-Decoding).
//
// The same inner loop as attention.wgsl with one mat4x4 of rows: registers hold 4 x 16 scores, no workgroup memory, no
// barriers. Up to four query heads that share a K/V head fill the rows, so that grouped queries read K/V once. Bound by
// reading K and V: on SwiftShader 45% of the read bandwidth with one row, 50% with four. attention-decode.wgsl is twice as fast
// where it runs; this kernel takes rows of any size and number, anywhere in memory.
// Bench: SwiftShader in Chrome: design-few-4096 f32 7.94 ms, 2.11 GB/s (48% of read bandwidth).

diagnostic(off, subgroup_uniformity);

const WORKGROUP_SIZE: u32 = 64u;
/// Query rows and keys that one invocation holds at once.
const ROWS: u32 = 4u;
const KEYS: u32 = 16u;
/// Invocations in a row that share the reading of keys (4), or 1.
const QUAD: u32 = 1u;

fn query_row(b: u32, k: u32, row: u32) -> u32 {
  let t = row / GROUP;
  let h = k * GROUP + row % GROUP;
  return row_at(params.q_skip + b * params.q_batch + t * params.q_token + h * params.q_head);
}

/// Lane d of four query rows: component r of column i is element i of row r.
fn four_queries(at: vec4<u32>, d: u32) -> mat4x4<f32> {
  return transpose(mat4x4<f32>(query_lane(at.x, d), query_lane(at.y, d), query_lane(at.z, d), query_lane(at.w, d)));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  // The invocations of a quad share K/V head and batch entry, and take row tiles in a row.
  let index = id.y * groups.x * WORKGROUP_SIZE + id.x;
  let lane = index % QUAD;
  let rows = params.seq_len * GROUP;
  let quads = (rows + QUAD * ROWS - 1u) / (QUAD * ROWS);
  let units = params.batch * params.kv_heads;
  let b = index / QUAD % units / params.kv_heads;
  let k = index / QUAD % params.kv_heads;
  let split = index / QUAD / units / quads;
  if (split >= params.splits) { return; }
  // Under a causal mask the last rows have most to do: they begin first.
  let quad = select(index / QUAD / units % quads, quads - 1u - index / QUAD / units % quads, CAUSAL);
  let first_row = (quad * QUAD + lane) * ROWS;

  // Of each row: where it lies, the run of keys that it sees, its maximum and sum. Rows past the end repeat the last.
  var q_at: array<vec4<u32>, 1>;
  var first: array<vec4<u32>, 1>;
  var end: array<vec4<u32>, 1>;
  var row_max: array<vec4<f32>, 1>;
  var row_sum: array<vec4<f32>, 1>;
  for (var i = 0u; i < ROWS; i++) {
    let row = min(first_row + i, rows - 1u);
    let visible = visible_keys(b, row / GROUP);
    q_at[i / 4u][i % 4u] = query_row(b, k, row);
    first[i / 4u][i % 4u] = max(visible.x, split * params.split_keys);
    end[i / 4u][i % 4u] = min(visible.y, (split + 1u) * params.split_keys);
    row_max[i / 4u][i % 4u] = begin_max(split, b, k * GROUP + row % GROUP, row / GROUP);
    row_sum[i / 4u][i % 4u] = begin_sum(split, b, k * GROUP + row % GROUP, row / GROUP);
  }
  var acc: array<mat4x4<f32>, 1u * LANES_E>;
  for (var e = 0u; e < LANES_E; e++) {
    for (var i = 0u; i < ROWS; i++) {
      let row = min(first_row + i, rows - 1u);
      acc[e * 1u + i / 4u][i % 4u] = begin_acc(split, b, k * GROUP + row % GROUP, row / GROUP, e);
    }
  }
  let q0 = q_at[0];
  let first0 = first[0];
  let end0 = end[0];
  var max0 = row_max[0];
  var sum0 = row_sum[0];

  let k_base = params.k_skip + b * params.k_batch + k * params.k_head;
  let v_base = params.v_skip + b * params.v_batch + k * params.v_head;
  let last_key = params.kv_len - 1u;
  // Positions ascend, so the first row's run begins first and the last row's ends last.
  let stop = unit_max(end0.w);
  for (var s = unit_min(first0.x); s < stop; s += KEYS) {
    // Scores of ROWS x KEYS pairs: scores_gj holds rows 4g to 4g + 3 and keys s + 4j to s + 4j + 3.
    let k0 = four_rows(s + 0u, last_key, k_base, params.k_token, lane);
    let k1 = four_rows(s + 4u, last_key, k_base, params.k_token, lane);
    let k2 = four_rows(s + 8u, last_key, k_base, params.k_token, lane);
    let k3 = four_rows(s + 12u, last_key, k_base, params.k_token, lane);
    var s00 = mat4x4<f32>();
    var s01 = mat4x4<f32>();
    var s02 = mat4x4<f32>();
    var s03 = mat4x4<f32>();
    for (var d = 0u; d < LANES_D; d++) {
      let rows0 = four_queries(q0, d);
      let keys0 = four_keys(k0, d);
      s00 += rows0 * keys0;
      let keys1 = four_keys(k1, d);
      s01 += rows0 * keys1;
      let keys2 = four_keys(k2, d);
      s02 += rows0 * keys2;
      let keys3 = four_keys(k3, d);
      s03 += rows0 * keys3;
    }
    s00 = scaled_tile(s00);
    s01 = scaled_tile(s01);
    s02 = scaled_tile(s02);
    s03 = scaled_tile(s03);
    if (MASKS_PAIRS) {
      s00 = pair_tile(b, k, first_row + 0u, s + 0u, s00);
      s01 = pair_tile(b, k, first_row + 0u, s + 4u, s01);
      s02 = pair_tile(b, k, first_row + 0u, s + 8u, s02);
      s03 = pair_tile(b, k, first_row + 0u, s + 12u, s03);
    }
    if (s < first0.w || s + KEYS > end0.x) {
      s00 = hidden_tile(s00, s + 0u, first0, end0);
      s01 = hidden_tile(s01, s + 4u, first0, end0);
      s02 = hidden_tile(s02, s + 8u, first0, end0);
      s03 = hidden_tile(s03, s + 12u, first0, end0);
    }

    // Online softmax: new maximum, what the old sums shrink by, weights in place of the scores.
    let old0 = max(max0, vec4<f32>(HIDDEN_LIMIT));
    max0 = max(max0, max(max(max(tile_max(s00), tile_max(s01)), tile_max(s02)), tile_max(s03)));
    let top0 = max(max0, vec4<f32>(HIDDEN_LIMIT));
    let shrink0 = exp2(old0 - top0);
    s00 = tile_weights(s00, top0);
    s01 = tile_weights(s01, top0);
    s02 = tile_weights(s02, top0);
    s03 = tile_weights(s03, top0);
    sum0 = sum0 * shrink0 + tile_sum(s00) + tile_sum(s01) + tile_sum(s02) + tile_sum(s03);
    let p00 = transpose(s00);
    let p01 = transpose(s01);
    let p02 = transpose(s02);
    let p03 = transpose(s03);

    // acc = acc * shrink + weights * values, a lane of the values at a time.
    let v0 = four_rows(s + 0u, last_key, v_base, params.v_token, lane);
    let v1 = four_rows(s + 4u, last_key, v_base, params.v_token, lane);
    let v2 = four_rows(s + 8u, last_key, v_base, params.v_token, lane);
    let v3 = four_rows(s + 12u, last_key, v_base, params.v_token, lane);
    for (var e = 0u; e < LANES_E; e++) {
      var acc0 = scaled_columns(acc[e * 1u + 0u], shrink0);
      let values0 = four_values(v0, e);
      acc0 += values0 * p00;
      let values1 = four_values(v1, e);
      acc0 += values1 * p01;
      let values2 = four_values(v2, e);
      acc0 += values2 * p02;
      let values3 = four_values(v3, e);
      acc0 += values3 * p03;
      acc[e * 1u + 0u] = acc0;
    }
  }

  row_max[0] = max0;
  row_sum[0] = sum0;
  for (var i = 0u; i < min(ROWS, rows - min(rows, first_row)); i++) {
    let row = first_row + i;
    let h = k * GROUP + row % GROUP;
    let factor = end_row(split, b, h, row / GROUP, row_max[i / 4u][i % 4u], row_sum[i / 4u][i % 4u]);
    for (var e = 0u; e < LANES_E; e++) {
      end_acc(split, b, h, row / GROUP, e, acc[e * 1u + i / 4u][i % 4u] * factor);
    }
  }
}
