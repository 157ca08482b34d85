// A kernel's rows begin and end in the state: acc by o_* strides, rowMax and rowSum [B, H, T], all f32. Each key split has
// a state of its own. rowMax is in base 2; HIDDEN for a row that has seen nothing.

@group(0) @binding(6) var<storage, read_write> state: array<f32>;

fn state_row(b: u32, h: u32, t: u32) -> u32 { return (b * HEADS + h) * params.seq_len + t; }

fn state_acc(split: u32, b: u32, h: u32, t: u32, lane: u32) -> u32 {
  return split * params.split_stride + params.o_skip + b * params.o_batch + t * params.o_token + h * params.o_head
    + 4u * lane;
}

fn begin_max(split: u32, b: u32, h: u32, t: u32) -> f32 {
  if (params.is_first != 0u) { return HIDDEN; }
  return state[split * params.split_stride + params.max_skip + state_row(b, h, t)];
}

fn begin_sum(split: u32, b: u32, h: u32, t: u32) -> f32 {
  if (params.is_first != 0u) { return 0.0; }
  return state[split * params.split_stride + params.sum_skip + state_row(b, h, t)];
}

fn begin_acc(split: u32, b: u32, h: u32, t: u32, lane: u32) -> vec4<f32> {
  var acc = vec4<f32>();
  if (params.is_first != 0u) { return acc; }
  let at = state_acc(split, b, h, t, lane);
  for (var i = 0u; i < min(4u, VALUE_DIM - 4u * lane); i++) { acc[i] = state[at + i]; }
  return acc;
}

/// What acc is multiplied by as it is stored.
fn end_row(split: u32, b: u32, h: u32, t: u32, row_max: f32, row_sum: f32) -> f32 {
  state[split * params.split_stride + params.max_skip + state_row(b, h, t)] = row_max;
  state[split * params.split_stride + params.sum_skip + state_row(b, h, t)] = row_sum;
  return 1.0;
}

fn end_acc(split: u32, b: u32, h: u32, t: u32, lane: u32, acc: vec4<f32>) {
  let at = state_acc(split, b, h, t, lane);
  for (var i = 0u; i < min(4u, VALUE_DIM - 4u * lane); i++) { state[at + i] = acc[i]; }
}
