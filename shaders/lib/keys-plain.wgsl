// Four keys or values at a time, each invocation for itself.

/// Rows of four keys (or values) in their buffer.
alias FourRows = vec4<u32>;

fn unit_min(x: u32) -> u32 { return x; }
fn unit_max(x: u32) -> u32 { return x; }

/// Rows of keys s to s + 3, the last valid one in place of those past it; `base` and `stride` count elements.
fn four_rows(s: u32, last: u32, base: u32, stride: u32, lane: u32) -> FourRows {
  let keys = min(vec4<u32>(s, s + 1u, s + 2u, s + 3u), vec4<u32>(last));
  let at = keys * stride + base;
  return vec4<u32>(row_at(at.x), row_at(at.y), row_at(at.z), row_at(at.w));
}

/// Lane d of four keys, one per column.
fn four_keys(rows: FourRows, d: u32) -> mat4x4<f32> {
  return mat4x4<f32>(key_lane(rows.x, d), key_lane(rows.y, d), key_lane(rows.z, d), key_lane(rows.w, d));
}

/// Lane e of four values, one per column.
fn four_values(rows: FourRows, e: u32) -> mat4x4<f32> {
  return mat4x4<f32>(value_lane(rows.x, e), value_lane(rows.y, e), value_lane(rows.z, e), value_lane(rows.w, e));
}
