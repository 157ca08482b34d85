// output[r] = index of the largest of input[r, 0..width): greedy decoding without reading the logits back.
//
// The first of equal ones wins; NaN never does. Tiling: a workgroup of 64 per row, each invocation every 64th element, then
// a tree. Workgroup memory: 512 bytes. Bound by memory.
// Bench: SwiftShader in Chrome: kernel-argmax f32 123 ms, 0.136 GB/s (2.9% of read bandwidth).

const WORKGROUP_SIZE: u32 = 64u;

struct Sizes {
  rows: u32,
  width: u32,
  input_start: u32,
  output_start: u32,
  groups_x: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;

var<workgroup> best_value: array<f32, WORKGROUP_SIZE>;
var<workgroup> best_index: array<u32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let row = group.y * sizes.groups_x + group.x;
  let width = select(0u, sizes.width, row < sizes.rows);
  let start = sizes.input_start + row * sizes.width;
  var value = -3.4028234e38;
  var index = sizes.width; // past the end: loses against every real candidate of the same value
  for (var i = local; i < width; i += WORKGROUP_SIZE) {
    let candidate = input[start + i];
    if (candidate > value || (candidate == value && i < index)) {
      value = candidate;
      index = i;
    }
  }
  best_value[local] = value;
  best_index[local] = index;
  for (var step = WORKGROUP_SIZE / 2u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (local < step) {
      let other = best_value[local + step];
      let other_index = best_index[local + step];
      if (other > best_value[local] || (other == best_value[local] && other_index < best_index[local])) {
        best_value[local] = other;
        best_index[local] = other_index;
      }
    }
  }
  if (local == 0u && row < sizes.rows) {
    // A row without a single number (all NaN or -inf) answers 0 rather than an index out of range.
    output[sizes.output_start + row] = select(best_index[0], 0u, best_index[0] >= sizes.width);
  }
}
