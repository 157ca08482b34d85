// Where a pair lies in the mask tensor. Rows and columns are counted in global positions from the mask's origins; a
// broadcast axis has stride 0. What lies outside of the mask is hidden.

const OUTSIDE_MASK: u32 = 0xffffffffu;

fn mask_index(b: u32, h: u32, t: u32, s: u32) -> u32 {
  var origin = params.mask_q_origin;
  if (params.mask_from_first != 0u) { origin = query_position(b, params.mask_first); }
  let row = query_position(b, t) - origin;
  let column = kv_position(b, s) - params.mask_kv_origin;
  if (row >= params.mask_rows || column >= params.mask_columns) { return OUTSIDE_MASK; }
  return params.mask_skip + b * params.mask_batch + h * params.mask_head + row * params.mask_row
    + column * params.mask_column;
}
