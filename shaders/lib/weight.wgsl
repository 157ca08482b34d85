// The guarded exponential of the online softmax, in base 2.

/// exp2(score - row_max), 0 for a hidden score.
fn weight(score: f32, row_max: f32) -> f32 { return select(exp2(score - row_max), 0.0, score < HIDDEN_LIMIT); }
