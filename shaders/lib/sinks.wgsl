// Attention sinks: one logit per head that joins the softmax's denominator and carries no value.

@group(0) @binding(13) var<storage, read> sinks: array<f32>;

/// The logit of head h in base 2.
fn sink_logit(h: u32) -> f32 { return sinks[params.sink_skip + h] * LOG2_E; }
