// Attention for one query token (decode): the four invocations of a quad share a K/V head and a run of its keys, each holds
// a quarter of every row, and the keys are split over quads (`splits`); each split has a state of its own, which
// finalize.wgsl or merge.wgsl merges (as in Flash-Decoding). Rows are the query heads that share the K/V head.

diagnostic(off, subgroup_uniformity);

const WORKGROUP_SIZE: u32 = 16u;
/// Query rows that a quad holds at once: 1, 2 or 4.
const ROWS: u32 = 1u;
/// Keys per turn: 1 or 2.
const KEYS: u32 = 2u;
/// Fours of elements of a row that one invocation holds.
const SLICES_D: u32 = HEAD_DIM / 16u;
const SLICES_E: u32 = VALUE_DIM / 16u;

alias Lane = vec4<Elem>;
alias KeyPart = array<Lane, SLICES_D>;
alias ValuePart = array<Lane, SLICES_E>;
/// A slice of every row.
alias Slice = array<vec4<f32>, ROWS>;
/// A number for every row.
alias PerRow = array<f32, ROWS>;
/// Rows after the first, as indices that are valid whatever ROWS is.
const ROW_1: u32 = min(1u, ROWS - 1u);
const ROW_2: u32 = min(2u, ROWS - 1u);
const ROW_3: u32 = min(3u, ROWS - 1u);

@group(0) @binding(1) var<storage, read> query: array<Lane>;
// By quarters of rows, not by lanes: one bounds check then serves a whole quarter.
@group(0) @binding(2) var<storage, read> key: array<KeyPart>;
@group(0) @binding(3) var<storage, read> value: array<ValuePart>;

/// The online softmax of one row in one invocation.
struct Row {
  /// The run of keys that the row sees.
  first: u32,
  end: u32,
  /// The largest score so far, at least HIDDEN_LIMIT; the same in the whole quad.
  top: f32,
  /// Of the weights of this invocation's keys.
  sum: f32,
  /// Of this turn: what old sums shrink by, the weight of the invocation's own key, and of its neighbour's.
  shrink: f32,
  near: f32,
  far: f32,
}

/// Products of a key's slice with every row's.
fn products(sums: PerRow, q: Slice, keys: Lane) -> PerRow {
  let k = vec4<f32>(keys);
  var total = sums;
  total[0] += dot(q[0], k);
  if (ROWS > 1u) { total[ROW_1] += dot(q[ROW_1], k); }
  if (ROWS > 2u) {
    total[ROW_2] += dot(q[ROW_2], k);
    total[ROW_3] += dot(q[ROW_3], k);
  }
  return total;
}

/// This invocation's quarter of the products of a key with every row.
fn key_products(q: array<Slice, SLICES_D>, part: u32) -> PerRow {
  let k = &key[part];
  var sums = products(PerRow(), q[0], (*k)[0]);
  if (SLICES_D > 1u) { const D = min(1u, SLICES_D - 1u); sums = products(sums, q[D], (*k)[D]); }
  if (SLICES_D > 2u) { const D = min(2u, SLICES_D - 1u); sums = products(sums, q[D], (*k)[D]); }
  if (SLICES_D > 3u) { const D = min(3u, SLICES_D - 1u); sums = products(sums, q[D], (*k)[D]); }
  if (SLICES_D > 4u) { const D = min(4u, SLICES_D - 1u); sums = products(sums, q[D], (*k)[D]); }
  if (SLICES_D > 5u) { const D = min(5u, SLICES_D - 1u); sums = products(sums, q[D], (*k)[D]); }
  if (SLICES_D > 6u) { const D = min(6u, SLICES_D - 1u); sums = products(sums, q[D], (*k)[D]); }
  if (SLICES_D > 7u) { const D = min(7u, SLICES_D - 1u); sums = products(sums, q[D], (*k)[D]); }
  return sums;
}

/// A row meets key s: `near` and `far` are this invocation's quarters of its products with that key and with its neighbour's.
fn met(row: Row, near: f32, far: f32, place: Pair) -> Row {
  // Of a pair of keys, the neighbour's `far` is about this invocation's key.
  var score = near + quadSwapX(far);
  score += quadSwapY(score);
  score *= params.score_scale;
  if (SOFTCAP) { score = tanh(clamp(score, -20.0, 20.0)) * params.softcap_scale; }
  if (MASKS_PAIRS) { score = pair_score(place.b, place.h, place.t, min(place.s, params.kv_len - 1u), score); }
  score = select(HIDDEN, score, (place.s >= row.first) & (place.s < row.end));
  var next = row;
  next.top = max(row.top, score);
  if (KEYS == 2u) { next.top = max(next.top, quadSwapX(next.top)); }
  next.shrink = exp2(row.top - next.top);
  next.near = exp2(score - next.top);
  next.far = quadSwapX(next.near);
  next.sum = row.sum * next.shrink + next.near;
  return next;
}

/// A pair of query and key.
struct Pair { b: u32, h: u32, t: u32, s: u32 }

fn pair_of(b: u32, k: u32, row: u32, s: u32) -> Pair {
  let r = min(row, params.seq_len * GROUP - 1u);
  return Pair(b, k * GROUP + r % GROUP, r / GROUP, s);
}

/// acc * shrink + weights * values: a slice of one row.
fn row_with(acc: vec4<f32>, row: Row, near: vec4<f32>, far: vec4<f32>) -> vec4<f32> {
  var sums = acc * row.shrink + near * row.near;
  if (KEYS == 2u) { sums += far * row.far; }
  return sums;
}

/// The same for a slice of every row.
fn with_values(acc: Slice, rows: array<Row, ROWS>, near_lane: Lane, far_lane: Lane) -> Slice {
  let near = vec4<f32>(near_lane);
  let far = vec4<f32>(far_lane);
  var sums = acc;
  sums[0] = row_with(acc[0], rows[0], near, far);
  if (ROWS > 1u) { sums[ROW_1] = row_with(acc[ROW_1], rows[ROW_1], near, far); }
  if (ROWS > 2u) {
    sums[ROW_2] = row_with(acc[ROW_2], rows[ROW_2], near, far);
    sums[ROW_3] = row_with(acc[ROW_3], rows[ROW_3], near, far);
  }
  return sums;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.y * groups.x * WORKGROUP_SIZE + id.x;
  let lane = index & 3u;
  let row_count = params.seq_len * GROUP;
  let tiles = (row_count + ROWS - 1u) / ROWS;
  let units = params.batch * params.kv_heads;
  let b = index / 4u % units / params.kv_heads;
  let k = index / 4u % params.kv_heads;
  let tile = index / 4u / units % tiles;
  let split = index / 4u / units / tiles;
  if (split >= params.splits) { return; }
  let first_row = tile * ROWS;
  // Of a pair of keys, even invocations answer for the first and odd ones for the second.
  let own_key = lane & (KEYS - 1u);

  // Rows past the end repeat the last.
  var loaded_q: array<Slice, SLICES_D>;
  var loaded_acc: array<Slice, SLICES_E>;
  var loaded_rows: array<Row, ROWS>;
  for (var i = 0u; i < ROWS; i++) {
    let at_row = pair_of(b, k, first_row + i, 0u);
    let visible = visible_keys(b, at_row.t);
    // Each invocation of a pair sums its own keys.
    let sum = select(0.0, begin_sum(split, b, at_row.h, at_row.t), own_key == 0u);
    loaded_rows[i] = Row(
      max(visible.x, split * params.split_keys), min(visible.y, (split + 1u) * params.split_keys),
      max(HIDDEN_LIMIT, begin_max(split, b, at_row.h, at_row.t)), sum, 1.0, 0.0, 0.0,
    );
    let at = params.q_skip + b * params.q_batch + at_row.t * params.q_token + at_row.h * params.q_head;
    for (var d = 0u; d < SLICES_D; d++) { loaded_q[d][i] = vec4<f32>(query[at / 4u + lane * SLICES_D + d]); }
    for (var e = 0u; e < SLICES_E; e++) {
      loaded_acc[e][i] = begin_acc(split, b, at_row.h, at_row.t, lane * SLICES_E + e);
    }
  }
  // Copies that are met at constant indices only: these can stay in registers.
  let q = loaded_q;
  var acc = loaded_acc;
  var rows = loaded_rows;

  let last_key = params.kv_len - 1u;
  let k_parts = params.k_token / HEAD_DIM * 4u;
  let v_parts = params.v_token / VALUE_DIM * 4u;
  let k_base = (params.k_skip + b * params.k_batch + k * params.k_head) / (4u * SLICES_D) + lane;
  let v_base = (params.v_skip + b * params.v_batch + k * params.v_head) / (4u * SLICES_E) + lane;
  // Positions ascend, so the first row's run begins first and the last row's ends last.
  let stop = rows[ROWS - 1u].end;
  for (var s = rows[0].first; s < stop; s += KEYS) {
    let mine = s + own_key;
    let near = min(mine, last_key);
    let far = min(s + (own_key ^ 1u), last_key);
    let near_products = key_products(q, k_base + near * k_parts);
    var far_products = near_products;
    if (KEYS == 2u) { far_products = key_products(q, k_base + far * k_parts); }
    rows[0] = met(rows[0], near_products[0], far_products[0], pair_of(b, k, first_row, mine));
    if (ROWS > 1u) {
      rows[ROW_1] = met(rows[ROW_1], near_products[ROW_1], far_products[ROW_1], pair_of(b, k, first_row + 1u, mine));
    }
    if (ROWS > 2u) {
      rows[ROW_2] = met(rows[ROW_2], near_products[ROW_2], far_products[ROW_2], pair_of(b, k, first_row + 2u, mine));
      rows[ROW_3] = met(rows[ROW_3], near_products[ROW_3], far_products[ROW_3], pair_of(b, k, first_row + 3u, mine));
    }

    let v = &value[v_base + near * v_parts];
    let u = &value[v_base + far * v_parts];
    acc[0] = with_values(acc[0], rows, (*v)[0], (*u)[0]);
    if (SLICES_E > 1u) { const E = min(1u, SLICES_E - 1u); acc[E] = with_values(acc[E], rows, (*v)[E], (*u)[E]); }
    if (SLICES_E > 2u) { const E = min(2u, SLICES_E - 1u); acc[E] = with_values(acc[E], rows, (*v)[E], (*u)[E]); }
    if (SLICES_E > 3u) { const E = min(3u, SLICES_E - 1u); acc[E] = with_values(acc[E], rows, (*v)[E], (*u)[E]); }
    if (SLICES_E > 4u) { const E = min(4u, SLICES_E - 1u); acc[E] = with_values(acc[E], rows, (*v)[E], (*u)[E]); }
    if (SLICES_E > 5u) { const E = min(5u, SLICES_E - 1u); acc[E] = with_values(acc[E], rows, (*v)[E], (*u)[E]); }
    if (SLICES_E > 6u) { const E = min(6u, SLICES_E - 1u); acc[E] = with_values(acc[E], rows, (*v)[E], (*u)[E]); }
    if (SLICES_E > 7u) { const E = min(7u, SLICES_E - 1u); acc[E] = with_values(acc[E], rows, (*v)[E], (*u)[E]); }
  }

  loaded_acc = acc;
  loaded_rows = rows;
  for (var i = 0u; i < min(ROWS, row_count - min(row_count, first_row)); i++) {
    let at_row = pair_of(b, k, first_row + i, 0u);
    var sum = loaded_rows[i].sum;
    if (KEYS == 2u) { sum += quadSwapX(sum); }
    let top = select(HIDDEN, loaded_rows[i].top, loaded_rows[i].top > HIDDEN_LIMIT);
    if (lane == 0u) { end_row(split, b, at_row.h, at_row.t, top, sum); }
    for (var e = 0u; e < SLICES_E; e++) {
      end_acc(split, b, at_row.h, at_row.t, lane * SLICES_E + e, loaded_acc[e][i]);
    }
  }
}
