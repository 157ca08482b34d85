// No valid kv lengths: every key counts.

const HAS_LENGTHS: bool = false;

fn kv_length(b: u32) -> u32 { return 0xffffffffu; }
