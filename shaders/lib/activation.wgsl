// Activations of the feed-forward layer, in f32.

const ACTIVATION: u32 = 0u; // 0 none, 1 silu, 2 gelu (erf), 3 gelu_tanh, 4 relu

/// erf by the series 2/sqrt(pi) exp(-z^2) sum 2^n z^(2n+1) / (2n+1)!!, whose terms are all positive: no cancellation, f32
/// accuracy with 48 terms up to |z| = 3.93, past which erf is 1 in f32.
fn erf_series(x: f32) -> f32 {
  let z = min(abs(x), 3.93);
  var term = z;
  var sum = z;
  for (var n = 1u; n < 48u; n++) {
    term *= 2.0 * z * z / f32(2u * n + 1u);
    sum += term;
  }
  return sign(x) * min(1.0, 1.1283791671 * exp(-z * z) * sum);
}

fn activate(x: f32) -> f32 {
  if (ACTIVATION == 1u) {
    // exp(-x) would overflow for x below -88, and inf is not something WGSL promises.
    return x / (1.0 + exp(min(-x, 80.0)));
  }
  if (ACTIVATION == 2u) {
    return 0.5 * x * (1.0 + erf_series(x * 0.7071067812));
  }
  if (ACTIVATION == 3u) {
    let inner = 0.7978845608 * (x + 0.044715 * x * x * x);
    return 0.5 * x * (1.0 + tanh(clamp(inner, -10.0, 10.0)));
  }
  if (ACTIVATION == 4u) {
    return max(x, 0.0);
  }
  return x;
}
