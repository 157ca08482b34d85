// A kernel's rows begin empty and end as output and lse (natural log): attention in one shot, without a state.

@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

fn begin_max(split: u32, b: u32, h: u32, t: u32) -> f32 { return HIDDEN; }
fn begin_sum(split: u32, b: u32, h: u32, t: u32) -> f32 { return 0.0; }
fn begin_acc(split: u32, b: u32, h: u32, t: u32, lane: u32) -> vec4<f32> { return vec4<f32>(); }

/// What acc is multiplied by as it is stored: 1 / rowSum, 0 for a row that sees nothing.
fn end_row(split: u32, b: u32, h: u32, t: u32, row_max: f32, row_sum: f32) -> f32 {
  let sink = sink_logit(h);
  let top = max(row_max, sink);
  let acc_weight = weight(row_max, top);
  let sum = row_sum * acc_weight + weight(sink, top);
  if (params.has_lse != 0u) {
    lse[params.lse_skip + b * params.lse_batch + h * params.lse_head + t] =
      select((top + log2(max(sum, 1.0e-37))) * LN_2, params.negative_infinity, sum <= 0.0);
  }
  return select(acc_weight / max(sum, 1.0e-37), 0.0, sum <= 0.0);
}

fn end_acc(split: u32, b: u32, h: u32, t: u32, lane: u32, acc: vec4<f32>) {
  write_output(params.o_skip + b * params.o_batch + t * params.o_token + h * params.o_head, lane, acc);
}
