// Masks that are looked up pair by pair: segments and mask tensors.

const MASKS_PAIRS: bool = true;

/// The score of query t (head h) and key s after its masks.
fn pair_score(b: u32, h: u32, t: u32, s: u32, score: f32) -> f32 {
  if (!same_segment(b, t, s)) { return HIDDEN; }
  return masked_score(b, h, t, s, score);
}

/// Scores of rows row to row + 3 (of K/V head k) and keys s to s + 3 after their masks; what lies past the end is hidden.
fn pair_tile(b: u32, k: u32, row: u32, s: u32, scores: mat4x4<f32>) -> mat4x4<f32> {
  var tile = scores;
  for (var i = 0u; i < 16u; i++) {
    let r = row + i / 4u;
    let key = s + i % 4u;
    if (r >= params.seq_len * GROUP || key >= params.kv_len) { continue; }
    tile[i % 4u][i / 4u] = pair_score(b, k * GROUP + r % GROUP, r / GROUP, key, tile[i % 4u][i / 4u]);
  }
  return tile;
}
