// output[t, i] = table[ids[t], i]: rows of an embedding table, widened to f32.
//
// The binding may hold a part of the table, rows first_row to first_row + row_count - 1: ids outside of it are left to the
// dispatch that has their part. Tiling: one invocation per element. Measured: bound by memory.
// Bench: SwiftShader in Chrome: kernel-embed f32 61.1 ms, 0.275 GB/s (5.7% of read bandwidth).

alias OutputElem = f32;
const WORKGROUP_SIZE: u32 = 64u;

struct Sizes {
  tokens: u32,
  width: u32,
  first_row: u32,
  row_count: u32,
  table_start: u32,
  ids_start: u32,
  output_start: u32,
  groups_x: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> output: array<OutputElem>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let index = (group.y * sizes.groups_x + group.x) * WORKGROUP_SIZE + local;
  let token = index / sizes.width;
  if (token >= sizes.tokens) {
    return;
  }
  let id = ids[sizes.ids_start + token];
  if (id < sizes.first_row || id - sizes.first_row >= sizes.row_count) {
    return;
  }
  let at = sizes.table_start + (id - sizes.first_row) * sizes.width + index % sizes.width;
  output[sizes.output_start + index] = OutputElem(widen_element(table[word_of(at)], at));
}
