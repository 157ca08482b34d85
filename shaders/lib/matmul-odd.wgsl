// Reading inputs and weights element by element: for in_features or starts that are not multiples of 4. Elements past the
// end of a row count as 0 on both sides, whatever the memory there holds.

alias InputGroup = f32;

@group(0) @binding(1) var<storage, read> input: array<InputGroup>;
@group(0) @binding(2) var<storage, read> weight: array<u32>;
@group(0) @binding(3) var<storage, read> up_weight: array<u32>;

fn keep(values: vec4f, left: u32) -> vec4f { return select(vec4f(0.0), values, vec4u(0u, 1u, 2u, 3u) < vec4u(left)); }

fn input4(at: u32, left: u32) -> vec4f {
  return keep(vec4f(f32(input[at]), f32(input[at + 1u]), f32(input[at + 2u]), f32(input[at + 3u])), left);
}

fn weight_at(at: u32) -> f32 { return widen_element(weight[word_of(at)], at); }

fn up_weight_at(at: u32) -> f32 { return widen_element(up_weight[word_of(at)], at); }

fn weight4(at: u32, left: u32) -> vec4f {
  return keep(vec4f(weight_at(at), weight_at(at + 1u), weight_at(at + 2u), weight_at(at + 3u)), left);
}

fn up_weight4(at: u32, left: u32) -> vec4f {
  return keep(vec4f(up_weight_at(at), up_weight_at(at + 1u), up_weight_at(at + 2u), up_weight_at(at + 3u)), left);
}
