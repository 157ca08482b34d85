// Strided copy: target[o, t, i] = source[o, t, i] for o < outer, t < tokens, i < width, each side with its own strides.
//
// Gathers a rank's shard out of a sequence, scatters it back, and spreads new K/V over pages. Moves bits, so f32 and u32
// share one variant (Elem = u32); f16 has its own because a token's row may be an odd number of halves. Where everything is
// a multiple of four elements, Elem is a vec4 and all sizes count those: a vec4 costs a CPU adapter as much as one element.
//
// Tiling: one invocation per run of RUN elements of one row. Nothing in workgroup memory.
// Measured (SwiftShader, CPU time, beside a load): Q, K, V and O of 4096 tokens x 2 heads x 64, strided, 34 ms as vec4s and
// 52 ms element by element, where causal attention of them takes 1.4 s.
// Bench: SwiftShader in Chrome: kernel-copy-tokens f32 14.5 ms, 1.15 GB/s (27% of read bandwidth).

alias Elem = u32;
const WORKGROUP_SIZE: u32 = 64u;
const RUN: u32 = 4u;

struct Sizes {
  outer: u32,
  tokens: u32,
  width: u32,
  // Workgroups along x, to rebuild the flat index.
  groups_x: u32,
  source_start: u32,
  source_outer: u32,
  source_token: u32,
  source_inner: u32,
  target_start: u32,
  target_outer: u32,
  target_token: u32,
  target_inner: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> source: array<Elem>;
@group(0) @binding(2) var<storage, read_write> destination: array<Elem>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let index = (group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local;
  let runs = (sizes.width + RUN - 1u) / RUN;
  let row = index / runs;
  if (row >= sizes.outer * sizes.tokens) {
    return;
  }
  let outer = row / sizes.tokens;
  let token = row % sizes.tokens;
  let first = (index % runs) * RUN;
  let end = min(first + RUN, sizes.width);
  let from_row = sizes.source_start + outer * sizes.source_outer + token * sizes.source_token;
  let to_row = sizes.target_start + outer * sizes.target_outer + token * sizes.target_token;
  for (var i = first; i < end; i++) {
    destination[to_row + i * sizes.target_inner] = source[from_row + i * sizes.source_inner];
  }
}
