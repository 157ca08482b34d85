// The output, one element at a time; the last lane of a row may be cut short.

@group(0) @binding(4) var<storage, read_write> output: array<Elem>;

fn write_output(element: u32, lane: u32, elements: vec4<f32>) {
  for (var i = 0u; i < min(4u, VALUE_DIM - 4u * lane); i++) { output[element + 4u * lane + i] = Elem(elements[i]); }
}
