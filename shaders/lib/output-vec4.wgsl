// The output, four elements at a time.

@group(0) @binding(4) var<storage, read_write> output: array<vec4<Elem>>;

fn write_output(element: u32, lane: u32, elements: vec4<f32>) { output[element / 4u + lane] = vec4<Elem>(elements); }
