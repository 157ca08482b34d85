// Four keys or values at a time, read once per quad: each of its four invocations reads one and hands it to the others.

/// Row of this invocation's key (or value) among the four, in their buffer.
alias FourRows = u32;

/// Smallest and largest over the quad: its invocations must walk the same keys.
fn unit_min(x: u32) -> u32 {
  let pair = min(x, quadSwapX(x));
  return min(pair, quadSwapY(pair));
}

fn unit_max(x: u32) -> u32 {
  let pair = max(x, quadSwapX(x));
  return max(pair, quadSwapY(pair));
}

/// Row of key s + lane, or of the last valid one where that is past it; `base` and `stride` count elements.
fn four_rows(s: u32, last: u32, base: u32, stride: u32, lane: u32) -> FourRows {
  return row_at(base + min(s + lane, last) * stride);
}

fn share(mine: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(quadBroadcast(mine, 0u), quadBroadcast(mine, 1u), quadBroadcast(mine, 2u), quadBroadcast(mine, 3u));
}

/// Lane d of four keys, one per column.
fn four_keys(rows: FourRows, d: u32) -> mat4x4<f32> { return share(key_lane(rows, d)); }

/// Lane e of four values, one per column.
fn four_values(rows: FourRows, e: u32) -> mat4x4<f32> { return share(value_lane(rows, e)); }
