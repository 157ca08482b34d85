// output[m, n] = activation(sum_k input[m, k] * weight[n, k] + bias[n]), or with GATED activation(x . gate) * (x . up):
// the weight row-major [outFeatures, inFeatures], as Hugging Face stores a Linear.
//
// Design for few rows (decode): bound by reading the weight once. LANES invocations share COLUMNS columns (with GATED half of
// them of gate, half of up) of one row, each taking every LANES-th group of four inner elements, so that neighbours read
// neighbouring words, and add their sums at the end (lib/matmul-sum-*.wgsl).
// LANES x COLUMNS is 4 x 8 on CPU adapters with quads, 1 x 8 on those without, 32 x 4 on GPUs.
// Registers: one number per column. What a loop carries costs a CPU adapter as much as four multiply-adds, so a column has
// one sum, not a vec4 of them.
// Measured: see src/kernels/matmul.ts.
// Bench: SwiftShader in Chrome: matmul-decode-2048-8192 f32 19.2 ms, 3.5 GB/s (74% of read bandwidth); lavapipe in Node: matmul-decode-2048-8192 f32 15.6 ms, 4.31 GB/s (89% of read bandwidth).

const WORKGROUP_SIZE: u32 = 64u;
const LANES: u32 = 1u;
const COLUMNS: u32 = 8u; // 4 or 8
const HALF: u32 = COLUMNS / 2u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let tile = (group.y * sizes.groups_x + group.x) * (WORKGROUP_SIZE / LANES) + local / LANES;
  let lane = local % LANES;
  let row = tile / sizes.column_tiles;
  let columns = select(COLUMNS, HALF, GATED);
  let column = tile % sizes.column_tiles * columns;
  let last = sizes.out_features - 1u;
  let width = sizes.in_features;
  // The upper half of the columns: the next ones of the weight, or the same ones of the second weight.
  let high = select(column + HALF, column, GATED);
  let high_start = select(sizes.weight_start, sizes.up_start, GATED);
  let x_at = sizes.input_start + min(row, sizes.rows - 1u) * sizes.input_stride;
  let w0_at = sizes.weight_start + min(column + 0u, last) * width;
  let w1_at = sizes.weight_start + min(column + 1u, last) * width;
  let w2_at = sizes.weight_start + min(column + 2u, last) * width;
  let w3_at = sizes.weight_start + min(column + 3u, last) * width;
  let w4_at = high_start + min(high + 0u, last) * width;
  let w5_at = high_start + min(high + 1u, last) * width;
  let w6_at = high_start + min(high + 2u, last) * width;
  let w7_at = high_start + min(high + 3u, last) * width;
  var low_sums = vec4f(0.0);
  var high_sums = vec4f(0.0);
  for (var k = 4u * lane; k < width; k += 4u * LANES) {
    let left = width - k;
    let x = input4(x_at + k, left);
    low_sums.x += dot(x, weight4(w0_at + k, left));
    low_sums.y += dot(x, weight4(w1_at + k, left));
    high_sums.x += dot(x, high_weight4(w4_at + k, left));
    high_sums.y += dot(x, high_weight4(w5_at + k, left));
    if (COLUMNS == 8u) {
      low_sums.z += dot(x, weight4(w2_at + k, left));
      low_sums.w += dot(x, weight4(w3_at + k, left));
      high_sums.z += dot(x, high_weight4(w6_at + k, left));
      high_sums.w += dot(x, high_weight4(w7_at + k, left));
    }
  }
  // One turn of a loop, so that SwiftShader does not do what follows in every turn of the loop above.
  for (var once = 0u; once < 1u; once++) {
    if (COLUMNS == 8u) {
      low_sums = sum_lanes(low_sums, local);
      high_sums = sum_lanes(high_sums, local);
    } else {
      let both = sum_lanes(vec4f(low_sums.xy, high_sums.xy), local);
      low_sums = both;
      high_sums = both.zwzw;
    }
    if (lane == 0u) {
      for (var c = 0u; c < columns; c++) {
        let at = c % HALF;
        let is_high = c >= HALF;
        store(row, select(column, high, is_high) + at, select(low_sums[at], high_sums[at], is_high), high_sums[at]);
      }
    }
  }
}
