// Scores of four rows and four keys: column i holds key s + i, component r holds row r.

const SOFTCAP: bool = false;

fn scaled_score(product: f32) -> f32 {
  if (SOFTCAP) { return tanh(clamp(product * params.score_scale, -20.0, 20.0)) * params.softcap_scale; }
  return product * params.score_scale;
}

fn scaled_four(products: vec4<f32>) -> vec4<f32> {
  if (SOFTCAP) {
    return tanh(clamp(products * params.score_scale, vec4<f32>(-20.0), vec4<f32>(20.0))) * params.softcap_scale;
  }
  return products * params.score_scale;
}

fn scaled_tile(products: mat4x4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    scaled_four(products[0]), scaled_four(products[1]), scaled_four(products[2]), scaled_four(products[3]),
  );
}

/// Hides key s from the rows whose run [first, end) does not hold it.
fn hidden_four(scores: vec4<f32>, s: u32, first: vec4<u32>, end: vec4<u32>) -> vec4<f32> {
  return select(vec4<f32>(HIDDEN), scores, (vec4<u32>(s) >= first) & (vec4<u32>(s) < end));
}

fn hidden_tile(scores: mat4x4<f32>, s: u32, first: vec4<u32>, end: vec4<u32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    hidden_four(scores[0], s, first, end), hidden_four(scores[1], s + 1u, first, end),
    hidden_four(scores[2], s + 2u, first, end), hidden_four(scores[3], s + 3u, first, end),
  );
}

/// Largest score of each row.
fn tile_max(scores: mat4x4<f32>) -> vec4<f32> { return max(max(scores[0], scores[1]), max(scores[2], scores[3])); }

fn tile_sum(weights: mat4x4<f32>) -> vec4<f32> { return (weights[0] + weights[1]) + (weights[2] + weights[3]); }

/// exp2(score - row_max); row_max is at least HIDDEN_LIMIT, so hidden scores become 0.
fn tile_weights(scores: mat4x4<f32>, row_max: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    exp2(scores[0] - row_max), exp2(scores[1] - row_max), exp2(scores[2] - row_max), exp2(scores[3] - row_max),
  );
}

/// Columns (rows of the output) times a factor each.
fn scaled_columns(acc: mat4x4<f32>, factor: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(acc[0] * factor.x, acc[1] * factor.y, acc[2] * factor.z, acc[3] * factor.w);
}
