// output[m, n] = activation(sum_k input[m, k] * weight[n, k] + bias[n]), or with GATED activation(x . gate) * (x . up):
// the weight row-major [outFeatures, inFeatures], as Hugging Face stores a Linear.
//
// Design for few rows (decode): bound by reading the weight once. LANES invocations share four columns (with GATED two of
// gate and two of up) of one row, each taking every LANES-th group of four inner elements, and add their sums in a tree.
// LANES is 1 on adapters that run on the CPU (no barrier is met) and 32 on GPUs, where neighbours then read neighbouring
// words. Registers: 4 vec4 sums. Workgroup memory: 1 KiB.
// Measured: see src/kernels/matmul.ts.

const WORKGROUP_SIZE: u32 = 64u;
const LANES: u32 = 1u;

var<workgroup> partial: array<vec4f, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let tile = (group.y * sizes.groups_x + group.x) * (WORKGROUP_SIZE / LANES) + local / LANES;
  let lane = local % LANES;
  let row = tile / sizes.column_tiles;
  let columns = select(4u, 2u, GATED);
  let column = tile % sizes.column_tiles * columns;
  let last = sizes.out_features - 1u;
  let width = sizes.in_features;
  let high = select(column + 2u, column, GATED);
  let high_start = select(sizes.weight_start, sizes.up_start, GATED);
  let x_at = sizes.input_start + min(row, sizes.rows - 1u) * sizes.input_stride;
  let w0_at = sizes.weight_start + min(column, last) * width;
  let w1_at = sizes.weight_start + min(column + 1u, last) * width;
  let w2_at = high_start + min(high, last) * width;
  let w3_at = high_start + min(high + 1u, last) * width;
  var sum0 = vec4f(0.0);
  var sum1 = vec4f(0.0);
  var sum2 = vec4f(0.0);
  var sum3 = vec4f(0.0);
  for (var k = 4u * lane; k < width; k += 4u * LANES) {
    let left = width - k;
    let x = input4(x_at + k, left);
    sum0 += x * weight4(w0_at + k, left);
    sum1 += x * weight4(w1_at + k, left);
    sum2 += x * high_weight4(w2_at + k, left);
    sum3 += x * high_weight4(w3_at + k, left);
  }
  let one = vec4f(1.0);
  var sums = vec4f(dot(sum0, one), dot(sum1, one), dot(sum2, one), dot(sum3, one));
  if (LANES > 1u) {
    partial[local] = sums;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
      workgroupBarrier();
      if (lane < step) {
        partial[local] += partial[local + step];
      }
    }
    sums = partial[local];
  }
  if (lane == 0u) {
    for (var c = 0u; c < columns; c++) {
      store(row, column + c, sums[c], sums[2u + c % 2u]);
    }
  }
}
