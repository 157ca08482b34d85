// Present keys (or values) = past ones, then new ones, along the token axis, each in its own layout. One invocation copies
// one element of the present. Memory-bound: nothing sits in registers or workgroup memory.

alias Elem = f32;
const WORKGROUP_SIZE: u32 = 64u;

struct ConcatParams {
  past_len: u32, new_len: u32, heads: u32, dim: u32,
  past_batch: u32, past_token: u32, past_head: u32, past_skip: u32,
  new_batch: u32, new_token: u32, new_head: u32, new_skip: u32,
  present_batch: u32, present_token: u32, present_head: u32, present_skip: u32,
  batch: u32,
}

@group(0) @binding(0) var<uniform> params: ConcatParams;
@group(0) @binding(1) var<storage, read> past: array<Elem>;
@group(0) @binding(2) var<storage, read> new_tokens: array<Elem>;
@group(0) @binding(3) var<storage, read_write> present: array<Elem>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.y * groups.x * WORKGROUP_SIZE + id.x;
  let tokens = params.past_len + params.new_len;
  if (index >= params.batch * params.heads * tokens * params.dim) { return; }
  let d = index % params.dim;
  let s = index / params.dim % tokens;
  let head = index / params.dim / tokens % params.heads;
  let b = index / params.dim / tokens / params.heads;
  var element: Elem;
  if (s < params.past_len) {
    element = past[params.past_skip + b * params.past_batch + s * params.past_token + head * params.past_head + d];
  } else {
    let t = s - params.past_len;
    element = new_tokens[params.new_skip + b * params.new_batch + t * params.new_token + head * params.new_head + d];
  }
  present[params.present_skip + b * params.present_batch + s * params.present_token + head * params.present_head + d] = element;
}
