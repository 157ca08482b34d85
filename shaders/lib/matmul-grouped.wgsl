// Reading inputs and weights in groups of four: in_features, strides and starts are all multiples of 4.

alias InputGroup = vec4<f32>;
alias WeightGroup = vec4<u32>;
const WEIGHT_WORDS: u32 = 4u; // words of a WeightGroup: 4 for f32, 2 for f16 and bf16

@group(0) @binding(1) var<storage, read> input: array<InputGroup>;
@group(0) @binding(2) var<storage, read> weight: array<WeightGroup>;
@group(0) @binding(3) var<storage, read> up_weight: array<WeightGroup>;

fn widen(words: WeightGroup) -> vec4f {
  if (WEIGHT_FORMAT == 1u) {
    return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
  }
  if (WEIGHT_FORMAT == 2u) {
    let bits = vec4u(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u);
    return bitcast<vec4f>(bits);
  }
  return bitcast<vec4f>(vec4u(words.x, words.y, words[WEIGHT_WORDS - 2u], words[WEIGHT_WORDS - 1u]));
}

/// Inputs `at` to `at + 3`. `left` (elements left in the row) is for rows that are not whole groups.
fn input4(at: u32, left: u32) -> vec4f { return vec4f(input[at / 4u]); }

fn weight4(at: u32, left: u32) -> vec4f { return widen(weight[at / 4u]); }

fn up_weight4(at: u32, left: u32) -> vec4f { return widen(up_weight[at / 4u]); }
