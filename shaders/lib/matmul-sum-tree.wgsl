// Adding the sums of LANES invocations that follow each other, in workgroup memory: 1 KiB and a barrier per level.

var<workgroup> partial: array<vec4f, WORKGROUP_SIZE>;

/// The sum of `value` over the LANES invocations that share a tile, in the first of them.
fn sum_lanes(value: vec4f, local: u32) -> vec4f {
  if (LANES == 1u) {
    return value;
  }
  workgroupBarrier(); // an earlier sum may still be read
  partial[local] = value;
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (local % LANES < step) {
      partial[local] += partial[local + step];
    }
  }
  return partial[local];
}
