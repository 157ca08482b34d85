// A mask tensor that is added to the scores (f32; -inf hides).

@group(0) @binding(9) var<storage, read> mask_values: array<f32>;

fn masked_score(b: u32, h: u32, t: u32, s: u32, score: f32) -> f32 {
  let index = mask_index(b, h, t, s);
  if (index == OUTSIDE_MASK) { return HIDDEN; }
  return score + mask_values[index] * LOG2_E;
}
