// Query, key and value one element at a time, for head sizes that are multiples of 4.

/// Lanes of four elements in a row of Q or K, and of V or O.
const LANES_D: u32 = HEAD_DIM / 4u;
const LANES_E: u32 = VALUE_DIM / 4u;

@group(0) @binding(1) var<storage, read> query: array<Elem>;
@group(0) @binding(2) var<storage, read> key: array<Elem>;
@group(0) @binding(3) var<storage, read> value: array<Elem>;
