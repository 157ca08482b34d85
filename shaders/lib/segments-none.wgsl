// One sequence: no segment ids.

fn same_segment(b: u32, t: u32, s: u32) -> bool { return true; }
