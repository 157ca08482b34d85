// State -> output and lse: merges the states of `splits` parts that lie split_stride apart, joins the sink, and divides by
// rowSum, once. One invocation per row and lane of the output; parts are met in order, online.
// Bench: SwiftShader in Chrome: kernel-finalize f32 14 ms, 0.309 GB/s (9.4% of read bandwidth); lavapipe in Node: decode-4096 f32 3.34 ms, 5.03 GB/s (85% of read bandwidth).

const WORKGROUP_SIZE: u32 = 64u;
const LANES_E: u32 = (VALUE_DIM + 3u) / 4u;

@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

/// Up to four elements of a part's acc from `at` on.
fn part_lane(at: u32, lane: u32) -> vec4<f32> {
  if (VALUE_DIM % 4u == 0u) { return vec4<f32>(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]); }
  var elements = vec4<f32>();
  for (var i = 0u; i < min(4u, VALUE_DIM - 4u * lane); i++) { elements[i] = parts[at + i]; }
  return elements;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.y * groups.x * WORKGROUP_SIZE + id.x;
  let heads = params.kv_heads * GROUP;
  if (index >= params.batch * heads * params.seq_len * LANES_E) { return; }
  let lane = index % LANES_E;
  let t = index / LANES_E % params.seq_len;
  let h = index / LANES_E / params.seq_len % heads;
  let b = index / LANES_E / params.seq_len / heads;
  let row = (b * HEADS + h) * params.seq_len + t;

  // k_* strides are those of acc in a part.
  let acc_at = params.k_skip + b * params.k_batch + t * params.k_token + h * params.k_head + 4u * lane;
  var top = sink_logit(h);
  var sum = select(1.0, 0.0, top < HIDDEN_LIMIT);
  var acc = vec4<f32>();
  for (var part = 0u; part < params.splits; part++) {
    let at = part * params.split_stride;
    let part_max = parts[at + params.max_skip + row];
    if (part_max < HIDDEN_LIMIT) { continue; }
    let new_top = max(top, part_max);
    let shrink = weight(top, new_top);
    let part_weight = weight(part_max, new_top);
    sum = sum * shrink + parts[at + params.sum_skip + row] * part_weight;
    acc *= shrink;
    acc += part_lane(at + acc_at, lane) * part_weight;
    top = new_top;
  }
  let seen = sum > 0.0;
  if (lane == 0u && params.has_lse != 0u) {
    lse[params.lse_skip + b * params.lse_batch + h * params.lse_head + t] = select(params.negative_infinity, (top + log2(max(sum, 1.0e-37))) * LN_2, seen);
  }
  let element = params.o_skip + b * params.o_batch + t * params.o_token + h * params.o_head;
  write_output(element, lane, select(vec4<f32>(), acc / max(sum, 1.0e-37), seen));
}
