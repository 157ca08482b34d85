// Elements one at a time, for head sizes that are no multiple of 4: the last lane of a row is filled up with zeros.

alias Lane = Elem;
/// Lanes of four elements in a row of Q or K, and of V or O.
const LANES_D: u32 = (HEAD_DIM + 3u) / 4u;
const LANES_E: u32 = (VALUE_DIM + 3u) / 4u;

@group(0) @binding(1) var<storage, read> query: array<Lane>;
@group(0) @binding(2) var<storage, read> key: array<Lane>;
@group(0) @binding(3) var<storage, read> value: array<Lane>;

/// Where a row begins.
fn row_at(element: u32) -> u32 { return element; }

fn query_lane(row: u32, lane: u32) -> vec4<f32> {
  var elements = vec4<f32>();
  for (var i = 0u; i < min(4u, HEAD_DIM - 4u * lane); i++) { elements[i] = f32(query[row + 4u * lane + i]); }
  return elements;
}

fn key_lane(row: u32, lane: u32) -> vec4<f32> {
  var elements = vec4<f32>();
  for (var i = 0u; i < min(4u, HEAD_DIM - 4u * lane); i++) { elements[i] = f32(key[row + 4u * lane + i]); }
  return elements;
}

fn value_lane(row: u32, lane: u32) -> vec4<f32> {
  var elements = vec4<f32>();
  for (var i = 0u; i < min(4u, VALUE_DIM - 4u * lane); i++) { elements[i] = f32(value[row + 4u * lane + i]); }
  return elements;
}
