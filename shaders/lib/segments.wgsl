// Packed sequences: a query sees keys of its own segment only.

@group(0) @binding(10) var<storage, read> query_segments: array<u32>;
@group(0) @binding(11) var<storage, read> kv_segments: array<u32>;

fn same_segment(b: u32, t: u32, s: u32) -> bool {
  return query_segments[params.q_segment_skip + b * params.seq_len + t]
    == kv_segments[params.kv_segment_skip + b * params.kv_len + s];
}
