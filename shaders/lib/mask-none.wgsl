// No mask tensor.

fn masked_score(b: u32, h: u32, t: u32, s: u32, score: f32) -> f32 { return score; }
