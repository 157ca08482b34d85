// output[r, i] = input[r, i] / sqrt(mean_i(input[r, i]^2) + eps) * weight[i], all in f32 (Zhang, Sennrich, arXiv 1910.07467).
//
// Tiling: LANES invocations per row. LANES is 1 on adapters that run on the CPU (no barrier is met) and 64 on GPUs, where
// neighbours read neighbouring elements and add their sums in a tree. Workgroup memory: 256 bytes.
// Measured: bound by memory; see src/kernels/rmsnorm.ts.
// Bench: SwiftShader in Chrome: kernel-rmsnorm f32 30.4 ms, 1.1 GB/s (25% of read bandwidth).

alias Elem = f32;
const WORKGROUP_SIZE: u32 = 64u;
const LANES: u32 = 1u;
const IN_PLACE: bool = false; // read from `output`; `input` is not touched

struct Sizes {
  rows: u32,
  width: u32,
  input_start: u32,
  input_stride: u32,
  output_start: u32,
  output_stride: u32,
  weight_start: u32,
  groups_x: u32,
  eps: f32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> input: array<Elem>;
@group(0) @binding(2) var<storage, read> weight: array<u32>;
@group(0) @binding(3) var<storage, read_write> output: array<Elem>;

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

fn input_at(index: u32) -> f32 {
  if (IN_PLACE) {
    return f32(output[index]);
  }
  return f32(input[index]);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let row = (group.y * sizes.groups_x + group.x) * (WORKGROUP_SIZE / LANES) + local / LANES;
  let lane = local % LANES;
  let is_inside = row < sizes.rows;
  let from_row = sizes.input_start + row * sizes.input_stride;
  // Four sums, so that a long row of like-sized squares does not lose its tail to one large sum.
  var squares = vec4f(0.0);
  let width = select(0u, sizes.width, is_inside);
  for (var i = lane; i < width; i += LANES * 4u) {
    let at = vec4u(i, i + LANES, i + 2u * LANES, i + 3u * LANES);
    let x = vec4f(
      input_at(from_row + at.x),
      input_at(from_row + min(at.y, width - 1u)),
      input_at(from_row + min(at.z, width - 1u)),
      input_at(from_row + min(at.w, width - 1u)),
    );
    let kept = select(vec4f(0.0), x, at < vec4u(width));
    squares += kept * kept;
  }
  var sum = (squares.x + squares.y) + (squares.z + squares.w);
  if (LANES > 1u) {
    partial[local] = sum;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
      workgroupBarrier();
      if (lane < step) {
        partial[local] += partial[local + step];
      }
    }
    workgroupBarrier();
    sum = partial[local - lane];
  }
  // Not inverseSqrt: some adapters answer it with an estimate.
  let factor = 1.0 / sqrt(sum / f32(sizes.width) + sizes.eps);
  let to_row = sizes.output_start + row * sizes.output_stride;
  for (var i = lane; i < width; i += LANES) {
    let at = sizes.weight_start + i;
    let scale = widen_element(weight[word_of(at)], at);
    output[to_row + i] = Elem(input_at(from_row + i) * factor * scale);
  }
}
