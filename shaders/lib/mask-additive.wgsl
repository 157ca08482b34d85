// A mask tensor that is added to the scores (f32; -inf hides). Finite values count within +-MASK_LIMIT, so that a row whose
// every value is the lowest float (as many masks say "hidden") is the mean of what it sees, and in base 2 nothing overflows.

const MASK_LIMIT: f32 = 6.0e37;
const NEGATIVE_INFINITY_BITS: u32 = 0xff800000u;

@group(0) @binding(9) var<storage, read> mask_values: array<f32>;

fn masked_score(b: u32, h: u32, t: u32, s: u32, score: f32) -> f32 {
  let index = mask_index(b, h, t, s);
  if (index == OUTSIDE_MASK) { return HIDDEN; }
  let value = mask_values[index];
  // By its bits: WGSL may assume that no float is infinite.
  if (bitcast<u32>(value) == NEGATIVE_INFINITY_BITS) { return HIDDEN; }
  return score + clamp(value, -MASK_LIMIT, MASK_LIMIT) * LOG2_E;
}
