// The most multiply-adds that an adapter does per second: four chains of vec4 multiply-adds per invocation, sixteen in a
// straight run per loop turn, nothing read or written in between. What a kernel's GFLOP/s are a share of. The straight run
// matters on CPU adapters: with one multiply-add per chain and turn SwiftShader reports a quarter of what it can do
// (measured there, two cores: 11-19 GFLOP/s against 43-45).
// Bench: SwiftShader in Chrome: fma-peak f32 27.5 ms, 29.3 GFLOP/s.

const TURNS: u32 = 512u;
const WORKGROUP_SIZE: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> result: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let factor = vec4<f32>(0.5, 0.25, 0.75, 0.125) + vec4<f32>(f32(id.x & 1u) * 0.0625);
  let term = vec4<f32>(1.0) - factor;
  var a = vec4<f32>(f32(id.x));
  var b = a + 1.0;
  var c = a + 2.0;
  var d = a + 3.0;
  for (var turn = 0u; turn < TURNS; turn++) {
    a = fma(a, factor, term); b = fma(b, factor, term); c = fma(c, factor, term); d = fma(d, factor, term);
    a = fma(a, factor, term); b = fma(b, factor, term); c = fma(c, factor, term); d = fma(d, factor, term);
    a = fma(a, factor, term); b = fma(b, factor, term); c = fma(c, factor, term); d = fma(d, factor, term);
    a = fma(a, factor, term); b = fma(b, factor, term); c = fma(c, factor, term); d = fma(d, factor, term);
  }
  // Read by nobody, but without it the loop would be dropped.
  result[id.x & 15u] = (a + b) + (c + d);
}
