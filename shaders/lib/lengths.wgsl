// Valid kv lengths: keys of batch entry b at positions below kv_length(b) count.

const HAS_LENGTHS: bool = true;

@group(0) @binding(12) var<storage, read> kv_lengths: array<u32>;

fn kv_length(b: u32) -> u32 { return kv_lengths[params.length_skip + b]; }
