// Elements four at a time, for head sizes that are multiples of 4.

alias Lane = vec4<Elem>;
/// Lanes of four elements in a row of Q or K, and of V or O.
const LANES_D: u32 = HEAD_DIM / 4u;
const LANES_E: u32 = VALUE_DIM / 4u;

@group(0) @binding(1) var<storage, read> query: array<Lane>;
@group(0) @binding(2) var<storage, read> key: array<Lane>;
@group(0) @binding(3) var<storage, read> value: array<Lane>;

/// Where a row that begins at an element begins in lanes.
fn row_at(element: u32) -> u32 { return element / 4u; }
fn query_lane(row: u32, lane: u32) -> vec4<f32> { return vec4<f32>(query[row + lane]); }
fn key_lane(row: u32, lane: u32) -> vec4<f32> { return vec4<f32>(key[row + lane]); }
fn value_lane(row: u32, lane: u32) -> vec4<f32> { return vec4<f32>(value[row + lane]); }
