// output[m, n] = activation(sum_k input[m, k] * weight[n, k] + bias[n]), or with GATED activation(x . gate) * (x . up):
// the weight row-major [outFeatures, inFeatures], as Hugging Face stores a Linear.
//
// Design "tile", for GPUs: a workgroup of 64 computes 64 rows x 64 columns (with GATED 32 of gate and 32 of up), staging
// 16 inner elements of both sides in workgroup memory; an invocation computes 8 x 8 of it in registers.
// Workgroup memory: 8 KiB, inner-major, so that four rows (or columns) of one inner element are one vec4.
// Registers: 16 vec4 sums, 4 vec4 operands. Barriers: two per 16 inner elements.
// Measured: see src/kernels/matmul.ts.
// Bench: SwiftShader in Chrome: design-matmul-tile-512 f32 73.8 ms, 3.64 GFLOP/s (8.8% of FMA peak).

const INNER: u32 = 16u;

// [INNER][16 groups of four rows], [INNER][16 groups of four columns]
var<workgroup> input_tile: array<vec4f, 256>;
var<workgroup> weight_tile: array<vec4f, 256>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let tile = group.y * sizes.groups_x + group.x;
  let row = tile / sizes.column_tiles * 64u;
  let columns = select(64u, 32u, GATED);
  let column = tile % sizes.column_tiles * columns;
  let last_row = sizes.rows - 1u;
  let last = sizes.out_features - 1u;
  let width = sizes.in_features;

  // Loading: this invocation moves a 4 x 4 piece of each side per stage, rows 4g to 4g + 3, inner elements 4i to 4i + 3.
  let i = local % 4u;
  let g = local / 4u;
  // With GATED the upper half of the staged columns is the second weight's.
  let is_high = GATED && g >= 8u;
  let piece = column + select(g, g - 8u, is_high) * 4u;
  let weight_start = select(sizes.weight_start, sizes.up_start, is_high);
  let x0_at = sizes.input_start + min(row + 4u * g + 0u, last_row) * sizes.input_stride;
  let x1_at = sizes.input_start + min(row + 4u * g + 1u, last_row) * sizes.input_stride;
  let x2_at = sizes.input_start + min(row + 4u * g + 2u, last_row) * sizes.input_stride;
  let x3_at = sizes.input_start + min(row + 4u * g + 3u, last_row) * sizes.input_stride;
  let w0_at = weight_start + min(piece + 0u, last) * width;
  let w1_at = weight_start + min(piece + 1u, last) * width;
  let w2_at = weight_start + min(piece + 2u, last) * width;
  let w3_at = weight_start + min(piece + 3u, last) * width;

  // Computing: rows 8 * ty to 8 * ty + 7, columns 4 * tx to 4 * tx + 3 of each half of the tile.
  let tx = local % 8u;
  let ty = local / 8u;
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
  for (var stage = 0u; stage < width; stage += INNER) {
    let k = stage + 4u * i;
    var x = mat4x4f();
    var w = mat4x4f();
    if (k < width) {
      let left = width - k;
      x = transpose(mat4x4f(input4(x0_at + k, left), input4(x1_at + k, left), input4(x2_at + k, left), input4(x3_at + k, left)));
      if (is_high) {
        w = transpose(mat4x4f(up_weight4(w0_at + k, left), up_weight4(w1_at + k, left), up_weight4(w2_at + k, left), up_weight4(w3_at + k, left)));
      } else {
        w = transpose(mat4x4f(weight4(w0_at + k, left), weight4(w1_at + k, left), weight4(w2_at + k, left), weight4(w3_at + k, left)));
      }
    }
    workgroupBarrier();
    input_tile[(4u * i + 0u) * 16u + g] = x[0];
    weight_tile[(4u * i + 0u) * 16u + g] = w[0];
    input_tile[(4u * i + 1u) * 16u + g] = x[1];
    weight_tile[(4u * i + 1u) * 16u + g] = w[1];
    input_tile[(4u * i + 2u) * 16u + g] = x[2];
    weight_tile[(4u * i + 2u) * 16u + g] = w[2];
    input_tile[(4u * i + 3u) * 16u + g] = x[3];
    weight_tile[(4u * i + 3u) * 16u + g] = w[3];
    workgroupBarrier();
    for (var inner = 0u; inner < INNER; inner++) {
      let upper = input_tile[inner * 16u + 2u * ty];
      let lower = input_tile[inner * 16u + 2u * ty + 1u];
      let wl = weight_tile[inner * 16u + tx];
      let wh = weight_tile[inner * 16u + 8u + tx];
      low0 += upper.x * wl;
      high0 += upper.x * wh;
      low1 += upper.y * wl;
      high1 += upper.y * wh;
      low2 += upper.z * wl;
      high2 += upper.z * wh;
      low3 += upper.w * wl;
      high3 += upper.w * wh;
      low4 += lower.x * wl;
      high4 += lower.x * wh;
      low5 += lower.y * wl;
      high5 += lower.y * wh;
      low6 += lower.z * wl;
      high6 += lower.z * wh;
      low7 += lower.w * wl;
      high7 += lower.w * wh;
    }
  }
  let first = column + 4u * tx;
  // A loop, though it indexes a private array: written out, `store` would be compiled 64 times over.
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
      let at = select(first + c, first + 32u + c - 4u, c >= 4u);
      store(row + 8u * ty + r, at, sums[2u * r + c / 4u][c % 4u], sums[2u * r + 1u][c % 4u]);
    }
  }
}
