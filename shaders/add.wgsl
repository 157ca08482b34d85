// output[i] += input[i]: a residual. One invocation per element; bound by memory.
// Bench: SwiftShader in Chrome: kernel-add f32 51.2 ms, 0.655 GB/s (14% of read bandwidth).

alias Elem = f32;
const WORKGROUP_SIZE: u32 = 64u;

struct Sizes {
  count: u32,
  input_start: u32,
  output_start: u32,
  groups_x: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> input: array<Elem>;
@group(0) @binding(2) var<storage, read_write> output: array<Elem>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let index = (group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local;
  if (index < sizes.count) {
    output[sizes.output_start + index] += input[sizes.input_start + index];
  }
}
