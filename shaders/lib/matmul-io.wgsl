// What every matmul kernel shares: sizes, bindings 0 and 3 to 6, the activation's place, and how a result is written.
//
// Needs lib/widen.wgsl.

alias OutputElem = f32;
const GATED: bool = false; // two weights: output = activation(x . gate) * (x . up)

struct Sizes {
  rows: u32,
  in_features: u32,
  out_features: u32,
  // 1: add to what the output holds.
  accumulate: u32,
  // Elements into each binding, and from row to row.
  input_start: u32,
  input_stride: u32,
  output_start: u32,
  output_stride: u32,
  weight_start: u32,
  up_start: u32,
  bias_start: u32,
  up_bias_start: u32,
  // Tiles along the columns, and workgroups along x, to rebuild the flat index.
  column_tiles: u32,
  groups_x: u32,
  // 1: add the bias. A flag, not a knob: one compiled kernel serves layers with and without.
  has_bias: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(4) var<storage, read> bias: array<u32>;
@group(0) @binding(5) var<storage, read> up_bias: array<u32>;
@group(0) @binding(6) var<storage, read_write> output: array<OutputElem>;

fn bias_at(index: u32) -> f32 { return widen_element(bias[word_of(index)], index); }

fn up_bias_at(index: u32) -> f32 { return widen_element(up_bias[word_of(index)], index); }

/// Writes one result; `up` counts only where GATED. Out of range: nothing.
fn store(row: u32, column: u32, sum: f32, up: f32) {
  if (row >= sizes.rows || column >= sizes.out_features) {
    return;
  }
  var value = sum;
  var factor = up;
  if (sizes.has_bias != 0u) {
    value += bias_at(sizes.bias_start + column);
    if (GATED) {
      factor += up_bias_at(sizes.up_bias_start + column);
    }
  }
  value = activate(value);
  if (GATED) {
    value *= factor;
  }
  let at = sizes.output_start + row * sizes.output_stride + column;
  if (sizes.accumulate != 0u) {
    value += f32(output[at]);
  }
  output[at] = OutputElem(value);
}

/// Four columns more: dot products of one row's four inputs with four weight rows.
fn dots(x: vec4f, w0: vec4f, w1: vec4f, w2: vec4f, w3: vec4f) -> vec4f {
  return vec4f(dot(x, w0), dot(x, w1), dot(x, w2), dot(x, w3));
}

/// Columns 4 to 7 of a tile: of the weight, or with GATED of the second one.
fn high_weight4(at: u32, left: u32) -> vec4f {
  if (GATED) {
    return up_weight4(at, left);
  }
  return weight4(at, left);
}
