// A mask tensor of bytes, four to a word: 0 hides.

@group(0) @binding(9) var<storage, read> mask_values: array<u32>;

fn masked_score(b: u32, h: u32, t: u32, s: u32, score: f32) -> f32 {
  let index = mask_index(b, h, t, s);
  if (index == OUTSIDE_MASK) { return HIDDEN; }
  let byte = (mask_values[index / 4u] >> (8u * (index % 4u))) & 255u;
  return select(score, HIDDEN, byte == 0u);
}
