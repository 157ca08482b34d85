// output[m, n] = activation(sum_k input[m, k] * weight[n, k] + bias[n]), or with GATED activation(x . gate) * (x . up):
// the weight row-major [outFeatures, inFeatures], as Hugging Face stores a Linear.
//
// Design "subgroup", for adapters with subgroups of exactly 4 lanes (SwiftShader), where a storage load costs four scalar
// loads and a lane exchange next to nothing: no workgroup memory, no barriers.
// Tiling: one subgroup computes 16 rows x 32 columns (with GATED 16 of gate and 16 of up). Each lane has 8 columns of its
// own and loads every fourth row of the input, which all four lanes then share by broadcast.
// Registers: 32 vec4 sums, 8 vec4 of weights, 4 of input.
// Measured: see src/kernels/matmul.ts.

const WORKGROUP_SIZE: u32 = 32u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  // No early return: broadcasts need all four lanes. What lies outside is read from the last row and not stored.
  let tile = ((group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local) / 4u;
  let lane = local % 4u;
  let row = tile / sizes.column_tiles * 16u;
  let columns = select(8u, 4u, GATED);
  let column = (tile % sizes.column_tiles * 4u + lane) * columns;
  let last_row = sizes.rows - 1u;
  let last = sizes.out_features - 1u;
  let width = sizes.in_features;
  let x0_at = sizes.input_start + min(row + 0u + lane, last_row) * sizes.input_stride;
  let x1_at = sizes.input_start + min(row + 4u + lane, last_row) * sizes.input_stride;
  let x2_at = sizes.input_start + min(row + 8u + lane, last_row) * sizes.input_stride;
  let x3_at = sizes.input_start + min(row + 12u + lane, last_row) * sizes.input_stride;
  let w0_at = sizes.weight_start + min(column + 0u, last) * width;
  let w1_at = sizes.weight_start + min(column + 1u, last) * width;
  let w2_at = sizes.weight_start + min(column + 2u, last) * width;
  let w3_at = sizes.weight_start + min(column + 3u, last) * width;
  let high = select(column + 4u, column, GATED);
  let high_start = select(sizes.weight_start, sizes.up_start, GATED);
  let w4_at = high_start + min(high + 0u, last) * width;
  let w5_at = high_start + min(high + 1u, last) * width;
  let w6_at = high_start + min(high + 2u, last) * width;
  let w7_at = high_start + min(high + 3u, last) * width;
  var low0 = vec4f(0.0);
  var high0 = vec4f(0.0);
  var low1 = vec4f(0.0);
  var high1 = vec4f(0.0);
  var low2 = vec4f(0.0);
  var high2 = vec4f(0.0);
  var low3 = vec4f(0.0);
  var high3 = vec4f(0.0);
  var low4 = vec4f(0.0);
  var high4 = vec4f(0.0);
  var low5 = vec4f(0.0);
  var high5 = vec4f(0.0);
  var low6 = vec4f(0.0);
  var high6 = vec4f(0.0);
  var low7 = vec4f(0.0);
  var high7 = vec4f(0.0);
  var low8 = vec4f(0.0);
  var high8 = vec4f(0.0);
  var low9 = vec4f(0.0);
  var high9 = vec4f(0.0);
  var low10 = vec4f(0.0);
  var high10 = vec4f(0.0);
  var low11 = vec4f(0.0);
  var high11 = vec4f(0.0);
  var low12 = vec4f(0.0);
  var high12 = vec4f(0.0);
  var low13 = vec4f(0.0);
  var high13 = vec4f(0.0);
  var low14 = vec4f(0.0);
  var high14 = vec4f(0.0);
  var low15 = vec4f(0.0);
  var high15 = vec4f(0.0);
  for (var k = 0u; k < width; k += 4u) {
    let left = width - k;
    let w0 = weight4(w0_at + k, left);
    let w1 = weight4(w1_at + k, left);
    let w2 = weight4(w2_at + k, left);
    let w3 = weight4(w3_at + k, left);
    let w4 = high_weight4(w4_at + k, left);
    let w5 = high_weight4(w5_at + k, left);
    let w6 = high_weight4(w6_at + k, left);
    let w7 = high_weight4(w7_at + k, left);
    let mine0 = input4(x0_at + k, left);
    let x0 = subgroupBroadcast(mine0, 0u);
    low0 += dots(x0, w0, w1, w2, w3);
    high0 += dots(x0, w4, w5, w6, w7);
    let x1 = subgroupBroadcast(mine0, 1u);
    low1 += dots(x1, w0, w1, w2, w3);
    high1 += dots(x1, w4, w5, w6, w7);
    let x2 = subgroupBroadcast(mine0, 2u);
    low2 += dots(x2, w0, w1, w2, w3);
    high2 += dots(x2, w4, w5, w6, w7);
    let x3 = subgroupBroadcast(mine0, 3u);
    low3 += dots(x3, w0, w1, w2, w3);
    high3 += dots(x3, w4, w5, w6, w7);
    let mine1 = input4(x1_at + k, left);
    let x4 = subgroupBroadcast(mine1, 0u);
    low4 += dots(x4, w0, w1, w2, w3);
    high4 += dots(x4, w4, w5, w6, w7);
    let x5 = subgroupBroadcast(mine1, 1u);
    low5 += dots(x5, w0, w1, w2, w3);
    high5 += dots(x5, w4, w5, w6, w7);
    let x6 = subgroupBroadcast(mine1, 2u);
    low6 += dots(x6, w0, w1, w2, w3);
    high6 += dots(x6, w4, w5, w6, w7);
    let x7 = subgroupBroadcast(mine1, 3u);
    low7 += dots(x7, w0, w1, w2, w3);
    high7 += dots(x7, w4, w5, w6, w7);
    let mine2 = input4(x2_at + k, left);
    let x8 = subgroupBroadcast(mine2, 0u);
    low8 += dots(x8, w0, w1, w2, w3);
    high8 += dots(x8, w4, w5, w6, w7);
    let x9 = subgroupBroadcast(mine2, 1u);
    low9 += dots(x9, w0, w1, w2, w3);
    high9 += dots(x9, w4, w5, w6, w7);
    let x10 = subgroupBroadcast(mine2, 2u);
    low10 += dots(x10, w0, w1, w2, w3);
    high10 += dots(x10, w4, w5, w6, w7);
    let x11 = subgroupBroadcast(mine2, 3u);
    low11 += dots(x11, w0, w1, w2, w3);
    high11 += dots(x11, w4, w5, w6, w7);
    let mine3 = input4(x3_at + k, left);
    let x12 = subgroupBroadcast(mine3, 0u);
    low12 += dots(x12, w0, w1, w2, w3);
    high12 += dots(x12, w4, w5, w6, w7);
    let x13 = subgroupBroadcast(mine3, 1u);
    low13 += dots(x13, w0, w1, w2, w3);
    high13 += dots(x13, w4, w5, w6, w7);
    let x14 = subgroupBroadcast(mine3, 2u);
    low14 += dots(x14, w0, w1, w2, w3);
    high14 += dots(x14, w4, w5, w6, w7);
    let x15 = subgroupBroadcast(mine3, 3u);
    low15 += dots(x15, w0, w1, w2, w3);
    high15 += dots(x15, w4, w5, w6, w7);
  }
  // A loop, though it indexes a private array: written out, `store` would be compiled 128 times over.
  var sums = array<vec4f, 32>(
    low0, high0,
    low1, high1,
    low2, high2,
    low3, high3,
    low4, high4,
    low5, high5,
    low6, high6,
    low7, high7,
    low8, high8,
    low9, high9,
    low10, high10,
    low11, high11,
    low12, high12,
    low13, high13,
    low14, high14,
    low15, high15,
  );
  for (var r = 0u; r < 16u; r++) {
    for (var c = 0u; c < select(8u, 4u, GATED); c++) {
      let at = select(column + c, high + c - 4u, c >= 4u);
      store(row + r, at, sums[2u * r + c / 4u][c % 4u], sums[2u * r + 1u][c % 4u]);
    }
  }
}
