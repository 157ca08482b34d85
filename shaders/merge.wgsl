// States -> one state: merges `splits` parts that lie split_stride apart into a state, and with is_first = 0 also what that
// state holds already. Nothing is divided yet. One invocation per row.
// Bench: SwiftShader in Chrome: kernel-merge f32 25 ms, 0.346 GB/s (8.0% of read bandwidth).

const WORKGROUP_SIZE: u32 = 64u;

@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(6) var<storage, read_write> state: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let row = id.y * groups.x * WORKGROUP_SIZE + id.x;
  if (row >= params.batch * HEADS * params.seq_len) { return; }
  let t = row % params.seq_len;
  let h = row / params.seq_len % HEADS;
  let b = row / params.seq_len / HEADS;

  // The state's own places: q_skip acc, o_skip rowMax, lse_skip rowSum. Acc's strides are the same in all.
  let acc_at = b * params.k_batch + t * params.k_token + h * params.k_head;
  var top = HIDDEN;
  var sum = 0.0;
  if (params.is_first == 0u) {
    top = state[params.o_skip + row];
    sum = state[params.lse_skip + row];
  }
  let own_max = top;
  for (var part = 0u; part < params.splits; part++) {
    top = max(top, parts[part * params.split_stride + params.max_skip + row]);
  }
  let own_weight = weight(own_max, top);
  sum *= own_weight;
  for (var part = 0u; part < params.splits; part++) {
    let at = part * params.split_stride;
    sum += parts[at + params.sum_skip + row] * weight(parts[at + params.max_skip + row], top);
  }
  for (var e = 0u; e < VALUE_DIM; e++) {
    var acc = 0.0;
    if (params.is_first == 0u && own_weight > 0.0) { acc = state[params.q_skip + acc_at + e] * own_weight; }
    for (var part = 0u; part < params.splits; part++) {
      let at = part * params.split_stride;
      let part_weight = weight(parts[at + params.max_skip + row], top);
      if (part_weight > 0.0) { acc += parts[at + params.k_skip + acc_at + e] * part_weight; }
    }
    state[params.q_skip + acc_at + e] = acc;
  }
  state[params.o_skip + row] = top;
  state[params.lse_skip + row] = sum;
}
