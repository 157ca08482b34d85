// K/V for the wire and back: f32 -> f16, two to a word, or with WIDEN f16 -> f32. One invocation per word of halves; bound by
// memory. pack2x16float and unpack2x16float are part of WGSL itself, so no device lacks them.
// Bench: SwiftShader in Chrome: kernel-wire-f16 f32 29.9 ms, 0.561 GB/s (13% of read bandwidth).

const WIDEN: bool = false;
const WORKGROUP_SIZE: u32 = 64u;

struct Sizes {
  // Elements; the last word holds one where it is odd.
  count: u32,
  source_start: u32,
  target_start: u32,
  groups_x: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> destination: array<u32>;

// The largest f16: what lies beyond would be infinite, or undefined.
const MOST: f32 = 65504.0;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let word = (group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local;
  let first = 2u * word;
  if (first >= sizes.count) {
    return;
  }
  let has_second = first + 1u < sizes.count;
  if (WIDEN) {
    let pair = unpack2x16float(source[sizes.source_start + word]);
    destination[sizes.target_start + first] = bitcast<u32>(pair.x);
    if (has_second) {
      destination[sizes.target_start + first + 1u] = bitcast<u32>(pair.y);
    }
    return;
  }
  var pair = vec2f(bitcast<f32>(source[sizes.source_start + first]), 0.0);
  if (has_second) {
    pair.y = bitcast<f32>(source[sizes.source_start + first + 1u]);
  }
  destination[sizes.target_start + word] = pack2x16float(clamp(pair, vec2f(-MOST), vec2f(MOST)));
}
