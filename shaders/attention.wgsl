// Attention, register design: a tile of 8 query rows meets one K/V block, 16 keys at a time. Without barriers and workgroup
// memory; state in, state out, or straight into the output (lib/into-state.wgsl, lib/into-output.wgsl).
//
// Tiling: one invocation holds 8 rows x 16 keys of scores as eight mat4x4 in registers (named, never indexed: indexing
// private memory costs as much as reading a buffer on CPU adapters). acc, 8 x VALUE_DIM, is met a lane of four at a time.
// A row is one token of one of the query heads that share a K/V head, so that grouped queries read K/V once.
// With lib/keys-quad.wgsl (design "subgroup") four invocations of a quad read four keys once and hand them round.
// Online softmax in base 2 (FlashAttention, arXiv 2205.14135). Only tiles at the edge of a row's visible run pay for masks.
//
// Measured, SwiftShader in headless Chrome on two cores, f32, 8 heads x 64, multiply-add peak (fma-peak.wgsl, 37-40 GFLOP/s)
// timed in turn in the same run: with quads 1024 tokens 9.4 GFLOP/s (25% of the peak), causal 8.9 (23%), 2048 tokens 9.3,
// 4096 causal 9.4, head size 128 9.4, 256 10.3, 8 2.7; without quads 4.4 (11%). On a busy machine 8 x 32 tiles were slower
// (15% against 22%), and 16 x 32 took 11 s to compile.
// Where SwiftShader's time goes (512 tokens, CPU time with a part left out, on a busy machine): Q.K 40%, P.V 40%, hiding 5%
// (its branch is walked by every tile), exp2 4%. Leaving out the reads of Q saves 5%, of K 3%, of acc 14%. In its machine code
// one turn of either loop takes 64 KiB, mostly moves: a read is a branch per lane, and each number that a loop carries is
// merged by lane mask in 12 instructions; that this size is what costs is likely, not proven. Slower or no faster were:
// D unrolled by two, fma() chains, dot() for the matrix products, keys one by one, quadSwap for quadBroadcast, 12 x 16 tiles.
// Bench: SwiftShader in Chrome: design-register-512 f32 124 ms, 4.32 GFLOP/s (10% of FMA peak); lavapipe in Node: prefill-1024 f32 108 ms, 19.9 GFLOP/s (52% of FMA peak).

diagnostic(off, subgroup_uniformity);

const WORKGROUP_SIZE: u32 = 64u;
/// Query rows and keys that one invocation holds at once.
const ROWS: u32 = 8u;
const KEYS: u32 = 16u;
/// Invocations in a row that share the reading of keys (4), or 1.
const QUAD: u32 = 1u;
/// Under a causal mask the last rows have most to do: whether they begin first.
const LONGEST_FIRST: bool = true;

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
  let quad = select(index / QUAD / units % quads, quads - 1u - index / QUAD / units % quads, CAUSAL && LONGEST_FIRST);
  let first_row = (quad * QUAD + lane) * ROWS;

  // Of each row: where it lies, the run of keys that it sees, its maximum and sum. Rows past the end repeat the last.
  var q_at: array<vec4<u32>, 2>;
  var first: array<vec4<u32>, 2>;
  var end: array<vec4<u32>, 2>;
  var row_max: array<vec4<f32>, 2>;
  var row_sum: array<vec4<f32>, 2>;
  for (var i = 0u; i < ROWS; i++) {
    let row = min(first_row + i, rows - 1u);
    let visible = visible_keys(b, row / GROUP);
    q_at[i / 4u][i % 4u] = query_row(b, k, row);
    first[i / 4u][i % 4u] = max(visible.x, split * params.split_keys);
    end[i / 4u][i % 4u] = min(visible.y, (split + 1u) * params.split_keys);
    row_max[i / 4u][i % 4u] = begin_max(split, b, k * GROUP + row % GROUP, row / GROUP);
    row_sum[i / 4u][i % 4u] = begin_sum(split, b, k * GROUP + row % GROUP, row / GROUP);
  }
  var acc: array<mat4x4<f32>, 2u * LANES_E>;
  for (var e = 0u; e < LANES_E; e++) {
    for (var i = 0u; i < ROWS; i++) {
      let row = min(first_row + i, rows - 1u);
      acc[e * 2u + i / 4u][i % 4u] = begin_acc(split, b, k * GROUP + row % GROUP, row / GROUP, e);
    }
  }
  let q0 = q_at[0];
  let q1 = q_at[1];
  let first0 = first[0];
  let end0 = end[0];
  let first1 = first[1];
  let end1 = end[1];
  var max0 = row_max[0];
  var sum0 = row_sum[0];
  var max1 = row_max[1];
  var sum1 = row_sum[1];

  let k_base = params.k_skip + b * params.k_batch + k * params.k_head;
  let v_base = params.v_skip + b * params.v_batch + k * params.v_head;
  let last_key = params.kv_len - 1u;
  // Positions ascend, so the first row's run begins first and the last row's ends last.
  let stop = unit_max(end1.w);
  for (var s = unit_min(first0.x); s < stop; s += KEYS) {
    // Scores of ROWS x KEYS pairs: scores_gj holds rows 4g to 4g + 3 and keys s + 4j to s + 4j + 3.
    let k0 = four_rows(s + 0u, last_key, k_base, params.k_token, lane);
    let k1 = four_rows(s + 4u, last_key, k_base, params.k_token, lane);
    let k2 = four_rows(s + 8u, last_key, k_base, params.k_token, lane);
    let k3 = four_rows(s + 12u, last_key, k_base, params.k_token, lane);
    var s00 = mat4x4<f32>(); var s10 = mat4x4<f32>();
    var s01 = mat4x4<f32>(); var s11 = mat4x4<f32>();
    var s02 = mat4x4<f32>(); var s12 = mat4x4<f32>();
    var s03 = mat4x4<f32>(); var s13 = mat4x4<f32>();
    for (var d = 0u; d < LANES_D; d++) {
      let rows0 = four_queries(q0, d);
      let rows1 = four_queries(q1, d);
      let keys0 = four_keys(k0, d);
      s00 += rows0 * keys0; s10 += rows1 * keys0;
      let keys1 = four_keys(k1, d);
      s01 += rows0 * keys1; s11 += rows1 * keys1;
      let keys2 = four_keys(k2, d);
      s02 += rows0 * keys2; s12 += rows1 * keys2;
      let keys3 = four_keys(k3, d);
      s03 += rows0 * keys3; s13 += rows1 * keys3;
    }
    s00 = scaled_tile(s00); s10 = scaled_tile(s10);
    s01 = scaled_tile(s01); s11 = scaled_tile(s11);
    s02 = scaled_tile(s02); s12 = scaled_tile(s12);
    s03 = scaled_tile(s03); s13 = scaled_tile(s13);
    if (MASKS_PAIRS) {
      s00 = pair_tile(b, k, first_row + 0u, s + 0u, s00);
      s10 = pair_tile(b, k, first_row + 4u, s + 0u, s10);
      s01 = pair_tile(b, k, first_row + 0u, s + 4u, s01);
      s11 = pair_tile(b, k, first_row + 4u, s + 4u, s11);
      s02 = pair_tile(b, k, first_row + 0u, s + 8u, s02);
      s12 = pair_tile(b, k, first_row + 4u, s + 8u, s12);
      s03 = pair_tile(b, k, first_row + 0u, s + 12u, s03);
      s13 = pair_tile(b, k, first_row + 4u, s + 12u, s13);
    }
    if (s < first1.w || s + KEYS > end0.x) {
      s00 = hidden_tile(s00, s + 0u, first0, end0);
      s10 = hidden_tile(s10, s + 0u, first1, end1);
      s01 = hidden_tile(s01, s + 4u, first0, end0);
      s11 = hidden_tile(s11, s + 4u, first1, end1);
      s02 = hidden_tile(s02, s + 8u, first0, end0);
      s12 = hidden_tile(s12, s + 8u, first1, end1);
      s03 = hidden_tile(s03, s + 12u, first0, end0);
      s13 = hidden_tile(s13, s + 12u, first1, end1);
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
    let old1 = max(max1, vec4<f32>(HIDDEN_LIMIT));
    max1 = max(max1, max(max(max(tile_max(s10), tile_max(s11)), tile_max(s12)), tile_max(s13)));
    let top1 = max(max1, vec4<f32>(HIDDEN_LIMIT));
    let shrink1 = exp2(old1 - top1);
    s10 = tile_weights(s10, top1);
    s11 = tile_weights(s11, top1);
    s12 = tile_weights(s12, top1);
    s13 = tile_weights(s13, top1);
    sum1 = sum1 * shrink1 + tile_sum(s10) + tile_sum(s11) + tile_sum(s12) + tile_sum(s13);
    let p10 = transpose(s10);
    let p11 = transpose(s11);
    let p12 = transpose(s12);
    let p13 = transpose(s13);

    // acc = acc * shrink + weights * values, a lane of the values at a time.
    let v0 = four_rows(s + 0u, last_key, v_base, params.v_token, lane);
    let v1 = four_rows(s + 4u, last_key, v_base, params.v_token, lane);
    let v2 = four_rows(s + 8u, last_key, v_base, params.v_token, lane);
    let v3 = four_rows(s + 12u, last_key, v_base, params.v_token, lane);
    for (var e = 0u; e < LANES_E; e++) {
      var acc0 = scaled_columns(acc[e * 2u + 0u], shrink0);
      var acc1 = scaled_columns(acc[e * 2u + 1u], shrink1);
      let values0 = four_values(v0, e);
      acc0 += values0 * p00; acc1 += values0 * p10;
      let values1 = four_values(v1, e);
      acc0 += values1 * p01; acc1 += values1 * p11;
      let values2 = four_values(v2, e);
      acc0 += values2 * p02; acc1 += values2 * p12;
      let values3 = four_values(v3, e);
      acc0 += values3 * p03; acc1 += values3 * p13;
      acc[e * 2u + 0u] = acc0;
      acc[e * 2u + 1u] = acc1;
    }
  }

  row_max[0] = max0;
  row_sum[0] = sum0;
  row_max[1] = max1;
  row_sum[1] = sum1;
  for (var i = 0u; i < min(ROWS, rows - min(rows, first_row)); i++) {
    let row = first_row + i;
    let h = k * GROUP + row % GROUP;
    let factor = end_row(split, b, h, row / GROUP, row_max[i / 4u][i % 4u], row_sum[i / 4u][i % 4u]);
    for (var e = 0u; e < LANES_E; e++) {
      end_acc(split, b, h, row / GROUP, e, acc[e * 2u + i / 4u][i % 4u] * factor);
    }
  }
}
