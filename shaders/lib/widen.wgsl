// Weights as stored, widened to f32 as they are read: 32-bit words in, so f16 and bf16 need no device feature.

const WEIGHT_FORMAT: u32 = 0u; // 0 f32, 1 f16, 2 bf16

/// Element `index` of 16-bit numbers packed in two to a word; `word` is the one that holds it.
fn widen_half(word: u32, index: u32) -> f32 {
  let bits = word >> (16u * (index & 1u));
  if (WEIGHT_FORMAT == 1u) {
    return unpack2x16float(bits).x;
  }
  return bitcast<f32>(bits << 16u);
}

/// The word that holds element `index`.
fn word_of(index: u32) -> u32 { return select(index / 2u, index, WEIGHT_FORMAT == 0u); }

/// Element `index`, of which `word` is the word that holds it.
fn widen_element(word: u32, index: u32) -> f32 {
  if (WEIGHT_FORMAT == 0u) {
    return bitcast<f32>(word);
  }
  return widen_half(word, index);
}
