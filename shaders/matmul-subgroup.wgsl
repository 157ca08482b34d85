// output[m, n] = activation(sum_k input[m, k] * weight[n, k] + bias[n]), or with GATED activation(x . gate) * (x . up):
// the weight row-major [outFeatures, inFeatures], as Hugging Face stores a Linear.
//
// Design "subgroup", for adapters that run on the CPU and have subgroups of at least 4 lanes (SwiftShader, lavapipe), where a
// storage load costs a branch per lane and an exchange in a quad next to nothing: no workgroup memory, no barriers.
// Tiling: four lanes compute 16 rows x 4 * COLUMNS columns (with GATED half of gate and half of up). Each lane has COLUMNS
// columns of its own and loads every fourth row of the input; the others' rows it takes by quadSwap, so row i of four is in
// lane l the row (i ^ l).
// Registers: 32 vec4 sums (half of each unused where COLUMNS is 4), 16 vec4 of input, 1 of weights.
// The order is what SwiftShader's compiler makes the least code of: rows first, then each column's weights just before its
// sixteen dot products, each dot(row, weights). A turn is 53 KB of code there; beyond an instruction cache of 64 KB all
// gains of a larger tile are lost.
// Measured: see src/kernels/matmul.ts.
// Bench: SwiftShader in Chrome: matmul-1024 f32 174 ms, 12.4 GFLOP/s (30% of FMA peak); lavapipe in Node: matmul-1024 f32 118 ms, 18.1 GFLOP/s (38% of FMA peak).

const WORKGROUP_SIZE: u32 = 32u;
const COLUMNS: u32 = 8u; // 4 or 8
const HALF: u32 = COLUMNS / 2u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  // No early return: broadcasts need all four lanes. What lies outside is read from the last row and not stored.
  let tile = ((group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local) / 4u;
  let lane = local % 4u;
  let row = tile / sizes.column_tiles * 16u;
  let columns = select(COLUMNS, HALF, GATED);
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
  let high = select(column + HALF, column, GATED);
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
    let x0 = input4(x0_at + k, left);
    let x1 = quadSwapX(x0);
    let x2 = quadSwapY(x0);
    let x3 = quadSwapDiagonal(x0);
    let x4 = input4(x1_at + k, left);
    let x5 = quadSwapX(x4);
    let x6 = quadSwapY(x4);
    let x7 = quadSwapDiagonal(x4);
    let x8 = input4(x2_at + k, left);
    let x9 = quadSwapX(x8);
    let x10 = quadSwapY(x8);
    let x11 = quadSwapDiagonal(x8);
    let x12 = input4(x3_at + k, left);
    let x13 = quadSwapX(x12);
    let x14 = quadSwapY(x12);
    let x15 = quadSwapDiagonal(x12);
    let w0 = weight4(w0_at + k, left);
    low0.x += dot(x0, w0);
    low1.x += dot(x1, w0);
    low2.x += dot(x2, w0);
    low3.x += dot(x3, w0);
    low4.x += dot(x4, w0);
    low5.x += dot(x5, w0);
    low6.x += dot(x6, w0);
    low7.x += dot(x7, w0);
    low8.x += dot(x8, w0);
    low9.x += dot(x9, w0);
    low10.x += dot(x10, w0);
    low11.x += dot(x11, w0);
    low12.x += dot(x12, w0);
    low13.x += dot(x13, w0);
    low14.x += dot(x14, w0);
    low15.x += dot(x15, w0);
    let w1 = weight4(w1_at + k, left);
    low0.y += dot(x0, w1);
    low1.y += dot(x1, w1);
    low2.y += dot(x2, w1);
    low3.y += dot(x3, w1);
    low4.y += dot(x4, w1);
    low5.y += dot(x5, w1);
    low6.y += dot(x6, w1);
    low7.y += dot(x7, w1);
    low8.y += dot(x8, w1);
    low9.y += dot(x9, w1);
    low10.y += dot(x10, w1);
    low11.y += dot(x11, w1);
    low12.y += dot(x12, w1);
    low13.y += dot(x13, w1);
    low14.y += dot(x14, w1);
    low15.y += dot(x15, w1);
    let w4 = high_weight4(w4_at + k, left);
    high0.x += dot(x0, w4);
    high1.x += dot(x1, w4);
    high2.x += dot(x2, w4);
    high3.x += dot(x3, w4);
    high4.x += dot(x4, w4);
    high5.x += dot(x5, w4);
    high6.x += dot(x6, w4);
    high7.x += dot(x7, w4);
    high8.x += dot(x8, w4);
    high9.x += dot(x9, w4);
    high10.x += dot(x10, w4);
    high11.x += dot(x11, w4);
    high12.x += dot(x12, w4);
    high13.x += dot(x13, w4);
    high14.x += dot(x14, w4);
    high15.x += dot(x15, w4);
    let w5 = high_weight4(w5_at + k, left);
    high0.y += dot(x0, w5);
    high1.y += dot(x1, w5);
    high2.y += dot(x2, w5);
    high3.y += dot(x3, w5);
    high4.y += dot(x4, w5);
    high5.y += dot(x5, w5);
    high6.y += dot(x6, w5);
    high7.y += dot(x7, w5);
    high8.y += dot(x8, w5);
    high9.y += dot(x9, w5);
    high10.y += dot(x10, w5);
    high11.y += dot(x11, w5);
    high12.y += dot(x12, w5);
    high13.y += dot(x13, w5);
    high14.y += dot(x14, w5);
    high15.y += dot(x15, w5);
    if (COLUMNS == 8u) {
      let w2 = weight4(w2_at + k, left);
      low0.z += dot(x0, w2);
      low1.z += dot(x1, w2);
      low2.z += dot(x2, w2);
      low3.z += dot(x3, w2);
      low4.z += dot(x4, w2);
      low5.z += dot(x5, w2);
      low6.z += dot(x6, w2);
      low7.z += dot(x7, w2);
      low8.z += dot(x8, w2);
      low9.z += dot(x9, w2);
      low10.z += dot(x10, w2);
      low11.z += dot(x11, w2);
      low12.z += dot(x12, w2);
      low13.z += dot(x13, w2);
      low14.z += dot(x14, w2);
      low15.z += dot(x15, w2);
      let w3 = weight4(w3_at + k, left);
      low0.w += dot(x0, w3);
      low1.w += dot(x1, w3);
      low2.w += dot(x2, w3);
      low3.w += dot(x3, w3);
      low4.w += dot(x4, w3);
      low5.w += dot(x5, w3);
      low6.w += dot(x6, w3);
      low7.w += dot(x7, w3);
      low8.w += dot(x8, w3);
      low9.w += dot(x9, w3);
      low10.w += dot(x10, w3);
      low11.w += dot(x11, w3);
      low12.w += dot(x12, w3);
      low13.w += dot(x13, w3);
      low14.w += dot(x14, w3);
      low15.w += dot(x15, w3);
      let w6 = high_weight4(w6_at + k, left);
      high0.z += dot(x0, w6);
      high1.z += dot(x1, w6);
      high2.z += dot(x2, w6);
      high3.z += dot(x3, w6);
      high4.z += dot(x4, w6);
      high5.z += dot(x5, w6);
      high6.z += dot(x6, w6);
      high7.z += dot(x7, w6);
      high8.z += dot(x8, w6);
      high9.z += dot(x9, w6);
      high10.z += dot(x10, w6);
      high11.z += dot(x11, w6);
      high12.z += dot(x12, w6);
      high13.z += dot(x13, w6);
      high14.z += dot(x14, w6);
      high15.z += dot(x15, w6);
      let w7 = high_weight4(w7_at + k, left);
      high0.w += dot(x0, w7);
      high1.w += dot(x1, w7);
      high2.w += dot(x2, w7);
      high3.w += dot(x3, w7);
      high4.w += dot(x4, w7);
      high5.w += dot(x5, w7);
      high6.w += dot(x6, w7);
      high7.w += dot(x7, w7);
      high8.w += dot(x8, w7);
      high9.w += dot(x9, w7);
      high10.w += dot(x10, w7);
      high11.w += dot(x11, w7);
      high12.w += dot(x12, w7);
      high13.w += dot(x13, w7);
      high14.w += dot(x14, w7);
      high15.w += dot(x15, w7);
    }
  }
  // One turn of a loop, so that SwiftShader does not fill the array in every turn of the loop above; and it is indexed in a
  // loop, for written out, `store` would be compiled 128 times over.
  for (var once = 0u; once < 1u; once++) {
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
      for (var c = 0u; c < columns; c++) {
        let at = select(column, high, c >= HALF) + c % HALF;
        store(row + (r ^ lane), at, sums[2u * r + c / HALF][c % HALF], sums[2u * r + 1u][c % HALF]);
      }
    }
  }
}
