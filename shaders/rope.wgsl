// Rotary position embedding (RoFormer, arXiv 2104.09864): each pair (a, b) of a head's first rotary_dim elements becomes
// (a cos - b sin, b cos + a sin), with cos and sin per token and pair from a table that the host computed in float64.
// Pairs are (i, i + rotary_dim / 2), as Hugging Face has them, or with INTERLEAVED (2 i, 2 i + 1). The rest is copied.
//
// Tiling: one invocation per pair (or per copied element) of one head of one token. No workgroup memory.
// Measured: bound by memory; see src/kernels/rope.ts.
// Bench: SwiftShader in Chrome: kernel-rope f32 50.4 ms, 0.354 GB/s (7.9% of read bandwidth).

alias Elem = f32;
const WORKGROUP_SIZE: u32 = 64u;
const INTERLEAVED: bool = false;
const IN_PLACE: bool = false; // read from `output`; `input` is not touched

struct Sizes {
  batch: u32,
  tokens: u32,
  heads: u32,
  // Elements between neighbours along each axis, the same for input and output.
  batch_stride: u32,
  token_stride: u32,
  head_stride: u32,
  input_start: u32,
  output_start: u32,
  // Pairs into the table, and pairs from one batch entry's part to the next (0: all share one).
  table_start: u32,
  table_batch_stride: u32,
  rotary_dim: u32,
  head_dim: u32,
  groups_x: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> input: array<Elem>;
@group(0) @binding(2) var<storage, read> table: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> output: array<Elem>;

fn input_at(index: u32) -> f32 {
  if (IN_PLACE) {
    return f32(output[sizes.output_start + index]);
  }
  return f32(input[sizes.input_start + index]);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let index = (group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local;
  let pairs = sizes.rotary_dim / 2u;
  let items = pairs + select(sizes.head_dim - sizes.rotary_dim, 0u, IN_PLACE);
  let item = index % items;
  let head = index / items % sizes.heads;
  let token = index / items / sizes.heads % sizes.tokens;
  let batch = index / items / sizes.heads / sizes.tokens;
  if (batch >= sizes.batch) {
    return;
  }
  let start = batch * sizes.batch_stride + token * sizes.token_stride + head * sizes.head_stride;
  if (item >= pairs) {
    let at = start + sizes.rotary_dim + item - pairs;
    output[sizes.output_start + at] = Elem(input_at(at));
    return;
  }
  let turn = table[sizes.table_start + batch * sizes.table_batch_stride + token * pairs + item];
  let first = start + select(item, 2u * item, INTERLEAVED);
  let second = first + select(pairs, 1u, INTERLEAVED);
  let a = input_at(first);
  let b = input_at(second);
  output[sizes.output_start + first] = Elem(a * turn.x - b * turn.y);
  output[sizes.output_start + second] = Elem(b * turn.x + a * turn.y);
}
