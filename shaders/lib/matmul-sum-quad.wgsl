// Adding the sums of four invocations that follow each other, by lane exchanges: no workgroup memory, no barriers. On
// SwiftShader every subgroup clears all workgroup memory, in code written out word by word.

/// The sum of `value` over the four invocations that share a tile, in each of them.
fn sum_lanes(value: vec4f, local: u32) -> vec4f {
  let pair = value + quadSwapX(value);
  return pair + quadSwapY(pair);
}
