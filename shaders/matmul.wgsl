// output[m, n] = activation(sum_k input[m, k] * weight[n, k] + bias[n]), or with GATED activation(x . gate) * (x . up):
// the weight row-major [outFeatures, inFeatures], as Hugging Face stores a Linear.
//
// Design "register", for adapters that run on the CPU, where barriers are what costs: no workgroup memory, no barriers.
// Tiling: one invocation computes 8 rows x 8 columns (with GATED 4 of gate and 4 of up), four inner elements at a time.
// Registers: 16 vec4 sums, 8 vec4 of weights. Sums are named one by one: indexing a private array is several times slower.
// Measured: see src/kernels/matmul.ts.
// Bench: SwiftShader in Chrome: design-matmul-register-512 f32 43.3 ms, 6.19 GFLOP/s (15% of FMA peak).

const WORKGROUP_SIZE: u32 = 32u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let tile = (group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local;
  let row = tile / sizes.column_tiles * 8u;
  if (row >= sizes.rows) {
    return;
  }
  let columns = select(8u, 4u, GATED);
  let column = tile % sizes.column_tiles * columns;
  let last_row = sizes.rows - 1u;
  let last = sizes.out_features - 1u;
  let width = sizes.in_features;
  let x0_at = sizes.input_start + min(row + 0u, last_row) * sizes.input_stride;
  let x1_at = sizes.input_start + min(row + 1u, last_row) * sizes.input_stride;
  let x2_at = sizes.input_start + min(row + 2u, last_row) * sizes.input_stride;
  let x3_at = sizes.input_start + min(row + 3u, last_row) * sizes.input_stride;
  let x4_at = sizes.input_start + min(row + 4u, last_row) * sizes.input_stride;
  let x5_at = sizes.input_start + min(row + 5u, last_row) * sizes.input_stride;
  let x6_at = sizes.input_start + min(row + 6u, last_row) * sizes.input_stride;
  let x7_at = sizes.input_start + min(row + 7u, last_row) * sizes.input_stride;
  let w0_at = sizes.weight_start + min(column + 0u, last) * width;
  let w1_at = sizes.weight_start + min(column + 1u, last) * width;
  let w2_at = sizes.weight_start + min(column + 2u, last) * width;
  let w3_at = sizes.weight_start + min(column + 3u, last) * width;
  // Columns 4 to 7 of the tile: the next four of the weight, or the same four of the second weight.
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
    let x0 = input4(x0_at + k, left);
    low0 += dots(x0, w0, w1, w2, w3);
    high0 += dots(x0, w4, w5, w6, w7);
    let x1 = input4(x1_at + k, left);
    low1 += dots(x1, w0, w1, w2, w3);
    high1 += dots(x1, w4, w5, w6, w7);
    let x2 = input4(x2_at + k, left);
    low2 += dots(x2, w0, w1, w2, w3);
    high2 += dots(x2, w4, w5, w6, w7);
    let x3 = input4(x3_at + k, left);
    low3 += dots(x3, w0, w1, w2, w3);
    high3 += dots(x3, w4, w5, w6, w7);
    let x4 = input4(x4_at + k, left);
    low4 += dots(x4, w0, w1, w2, w3);
    high4 += dots(x4, w4, w5, w6, w7);
    let x5 = input4(x5_at + k, left);
    low5 += dots(x5, w0, w1, w2, w3);
    high5 += dots(x5, w4, w5, w6, w7);
    let x6 = input4(x6_at + k, left);
    low6 += dots(x6, w0, w1, w2, w3);
    high6 += dots(x6, w4, w5, w6, w7);
    let x7 = input4(x7_at + k, left);
    low7 += dots(x7, w0, w1, w2, w3);
    high7 += dots(x7, w4, w5, w6, w7);
  }
  // One turn of a loop, so that SwiftShader does not fill the array in every turn of the loop above; and it is indexed in a
  // loop, for written out, `store` would be compiled 64 times over.
  for (var once = 0u; once < 1u; once++) {
    var sums = array<vec4f, 16>(
      low0, high0,
      low1, high1,
      low2, high2,
      low3, high3,
      low4, high4,
      low5, high5,
      low6, high6,
      low7, high7,
    );
    for (var r = 0u; r < 8u; r++) {
      for (var c = 0u; c < select(8u, 4u, GATED); c++) {
        let at = select(column + c, high + c - 4u, c >= 4u);
        store(row + r, at, sums[2u * r + c / 4u][c % 4u], sums[2u * r + 1u][c % 4u]);
      }
    }
  }
}
