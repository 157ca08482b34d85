// No masks that are looked up pair by pair.

const MASKS_PAIRS: bool = false;

fn pair_score(b: u32, h: u32, t: u32, s: u32, score: f32) -> f32 { return score; }
fn pair_tile(b: u32, k: u32, row: u32, s: u32, scores: mat4x4<f32>) -> mat4x4<f32> { return scores; }
