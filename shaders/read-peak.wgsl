// The most bytes per second that an adapter reads from a large buffer, once and plainly: eight vec4 loads in a straight run
// per loop turn, into four sums. What a decode kernel's GB/s are a share of.
//
// Two ways through the buffer, of which read-peak.ts takes the faster one on the adapter at hand: every invocation its own
// run of neighbouring words (a CPU adapter's caches and prefetchers like that), or INTERLEAVED, where neighbouring
// invocations read neighbouring words (a GPU joins such loads). On SwiftShader, two cores, runs read twice as fast; one, two or
// four numbers a load, blocks behind one bounds check, and 4 to 16 loads a turn made no difference beyond noise there; eight sums cost
// a tenth (what a loop carries is stored each turn).
// Bench: SwiftShader in Chrome: read-peak f32 13.8 ms, 4.87 GB/s.

const TURNS: u32 = 64u;
const INTERLEAVED: bool = false;
const WORKGROUP_SIZE: u32 = 64u;

struct Sizes {
  invocations: u32,
  groups_x: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> result: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = (group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local;
  let step = select(1u, sizes.invocations, INTERLEAVED);
  var at = select(index * (8u * TURNS), index, INTERLEAVED);
  var a = vec4<f32>(0.0);
  var b = a;
  var c = a;
  var d = a;
  for (var turn = 0u; turn < TURNS; turn++) {
    a += source[at];
    b += source[at + step];
    c += source[at + 2u * step];
    d += source[at + 3u * step];
    a += source[at + 4u * step];
    b += source[at + 5u * step];
    c += source[at + 6u * step];
    d += source[at + 7u * step];
    at += 8u * step;
  }
  // Read by nobody, but without it the loop would be dropped.
  result[index & 15u] = (a + b) + (c + d);
}
