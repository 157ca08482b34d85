// From a dot product to a score in base 2: scale, softcap, then mask.

const SOFTCAP: bool = false;

/// Some pairs inside the visible run may still be hidden, or their scores changed, one by one.
const MASKS_PAIRS: bool = HAS_MASK || HAS_SEGMENTS;

fn scaled_score(product: f32) -> f32 {
  if (SOFTCAP) { return tanh(clamp(product * params.score_scale, -20.0, 20.0)) * params.softcap_scale; }
  return product * params.score_scale;
}

fn pair_score(b: u32, h: u32, t: u32, s: u32, score: f32) -> f32 {
  if (HAS_SEGMENTS && !same_segment(b, t, s)) { return HIDDEN; }
  return masked_score(b, h, t, s, score);
}
