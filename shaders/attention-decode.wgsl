// Attention for one query token (decode), for CPU adapters with subgroups of 4 or more: the four invocations of a quad share a
// K/V head and a run of its keys, each holds a quarter of every row, and the keys are split over quads (`splits`); each split has
// a state of its own, which finalize.wgsl or merge.wgsl merges (as in Flash-Decoding). Rows are the query heads that share the
// K/V head, so that grouped queries read K/V once. State in, state out; no barriers, no workgroup memory.
//
// Bound by reading, and there by instructions, not by memory: SwiftShader reads four numbers in some 90 instructions and 620
// bytes of code. So every number is read once, by rows whose one bounds check serves a quarter, the loop over elements is
// written out (specialize: "unrolled"), and Q and acc are met at constant indices. An invocation sums a quarter of each product;
// two quadSwaps add the quarters. With KEYS = 2 even invocations answer for the first key and odd ones for the second, so that
// one exp2 makes both weights. The loop must fit half an instruction cache (some 48 KB): 2 keys up to headDim 64 (49 KB), 1 key
// up to 128; with 4 rows up to 80. Past that attention-few.wgsl is as fast or faster (headDim 256; 32 heads over 8 of 128).
//
// Measured in turn with the read probe (Dawn in Node, two cores, f32, one token; a busy machine's quietest run, ms):
//   SwiftShader, 8 heads x 64:  16,384 keys 21.0 (probe 20.1; 95% of read bandwidth), 4,096 keys 7.7 (92%); 128 wide: 84%,
//     80 wide: 92%. 8 heads over 4: 73% (attention-few 46%), over 2: 9.4 (attention-few 11.2), 16 over 2: 12.0 (20.0).
//   SwiftShader in headless Chrome, busy: 16,384 keys 34 (jax-js 113), 4,096 keys 14 (40). lavapipe: f32 4.1 (attention-few 9.1),
//     f16 2.7 (6.6).
// Tried in vain: 4 keys a turn (94 KB of code: half the speed), acc in private memory (the same), Q and K swapped in dot(),
// flat instead of row-wise reading (a fifth slower), workgroups of 4 or 64, 16 splits for 8, a loop that breaks at its end.
// Bench: SwiftShader in Chrome: decode-16384 f32 16.5 ms, 4.08 GB/s (83% of read bandwidth); lavapipe in Node: decode-16384 f32 13.5 ms, 4.99 GB/s (72% of read bandwidth).

diagnostic(off, subgroup_uniformity);

const WORKGROUP_SIZE: u32 = 16u;
/// Query rows that a quad holds at once.
const ROWS: u32 = 1u;
/// Keys per turn: 1 or 2.
const KEYS: u32 = 2u;
/// Fours of elements of a row that one invocation holds; of all its rows.
const SLICES_D: u32 = HEAD_DIM / 16u;
const SLICES_E: u32 = VALUE_DIM / 16u;
const ACC_SIZE: u32 = SLICES_E * ROWS;

alias Lane = vec4<Elem>;
alias KeyPart = array<Lane, SLICES_D>;
alias ValuePart = array<Lane, SLICES_E>;

@group(0) @binding(1) var<storage, read> query: array<Lane>;
// By quarters of rows, not by lanes: one bounds check then serves a whole quarter.
@group(0) @binding(2) var<storage, read> key: array<KeyPart>;
@group(0) @binding(3) var<storage, read> value: array<ValuePart>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = id.y * groups.x * WORKGROUP_SIZE + id.x;
  let lane = index & 3u;
  let rows = params.seq_len * GROUP;
  let tiles = (rows + ROWS - 1u) / ROWS;
  let units = params.batch * params.kv_heads;
  let b = index / 4u % units / params.kv_heads;
  let k = index / 4u % params.kv_heads;
  let tile = index / 4u / units % tiles;
  let split = index / 4u / units / tiles;
  if (split >= params.splits) { return; }
  // Of a pair of keys, even invocations answer for the first and odd ones for the second.
  let own_key = lane & (KEYS - 1u);

  // Of each row: token, head, the run of keys that it sees, the largest score so far (at least HIDDEN_LIMIT; the same in the
  // whole quad), the sum of the weights of this invocation's keys, and its quarter of Q and acc. Rows past the end repeat the
  // last.
  var token: array<u32, ROWS>; // unrolled
  var head: array<u32, ROWS>; // unrolled
  var first: array<u32, ROWS>; // unrolled
  var end: array<u32, ROWS>; // unrolled
  var row_max: array<f32, ROWS>; // unrolled
  var row_sum: array<f32, ROWS>; // unrolled
  var loaded: array<array<vec4<f32>, ROWS>, max(SLICES_D, SLICES_E)>;
  var q: array<array<vec4<f32>, ROWS>, SLICES_D>;
  var start = 0xffffffffu;
  var stop = 0u;
  for (var r = 0u; r < ROWS; r++) { // unrolled
    let row = min(tile * ROWS + r, rows - 1u);
    token[r] = row / GROUP;
    head[r] = k * GROUP + row % GROUP;
    let visible = visible_keys(b, token[r]);
    first[r] = max(visible.x, split * params.split_keys);
    end[r] = min(visible.y, (split + 1u) * params.split_keys);
    start = min(start, first[r]);
    stop = max(stop, end[r]);
    row_max[r] = max(begin_max(split, b, head[r], token[r]), HIDDEN_LIMIT);
    row_sum[r] = select(0.0, begin_sum(split, b, head[r], token[r]), own_key == 0u);
    let at = params.q_skip + b * params.q_batch + token[r] * params.q_token + head[r] * params.q_head;
    for (var d = 0u; d < SLICES_D; d++) { q[d][r] = vec4<f32>(query[at / 4u + lane * SLICES_D + d]); }
    for (var e = 0u; e < SLICES_E; e++) { loaded[e][r] = begin_acc(split, b, head[r], token[r], lane * SLICES_E + e); }
  }
  var acc: array<vec4<f32>, ACC_SIZE>; // unrolled
  for (var e = 0u; e < SLICES_E; e++) { // unrolled
    for (var r = 0u; r < ROWS; r++) { // unrolled
      acc[e * ROWS + r] = loaded[e][r];
    }
  }

  let last_key = params.kv_len - 1u;
  let k_parts = params.k_token / HEAD_DIM * 4u;
  let v_parts = params.v_token / VALUE_DIM * 4u;
  let k_base = (params.k_skip + b * params.k_batch + k * params.k_head) / (4u * SLICES_D) + lane;
  let v_base = (params.v_skip + b * params.v_batch + k * params.v_head) / (4u * SLICES_E) + lane;
  for (var s = start; s < stop; s += KEYS) {
    let mine = s + own_key;
    let near_key = min(mine, last_key);
    let far_key = min(s + (own_key ^ 1u), last_key);

    // A quarter of each product, with this invocation's key and with its neighbour's.
    var near: array<f32, ROWS>; // unrolled
    var far: array<f32, ROWS>; // unrolled
    for (var r = 0u; r < ROWS; r++) { // unrolled
      near[r] = 0.0;
      far[r] = 0.0;
    }
    let near_part = &key[k_base + near_key * k_parts];
    for (var d = 0u; d < SLICES_D; d++) { // unrolled
      let keys = vec4<f32>((*near_part)[d]);
      for (var r = 0u; r < ROWS; r++) { // unrolled
        near[r] += dot(q[d][r], keys);
      }
    }
    if (KEYS == 2u) {
      let far_part = &key[k_base + far_key * k_parts];
      for (var d = 0u; d < SLICES_D; d++) { // unrolled
        let keys = vec4<f32>((*far_part)[d]);
        for (var r = 0u; r < ROWS; r++) { // unrolled
          far[r] += dot(q[d][r], keys);
        }
      }
    }

    // Online softmax: new maximum, what the old sums shrink by, weights in place of the products.
    var shrink: array<f32, ROWS>; // unrolled
    for (var r = 0u; r < ROWS; r++) { // unrolled
      // The neighbour's `far` is about this invocation's key.
      let half = near[r] + quadSwapX(select(near[r], far[r], KEYS == 2u));
      var score = (half + quadSwapY(half)) * params.score_scale;
      if (SOFTCAP) { score = tanh(clamp(score, -20.0, 20.0)) * params.softcap_scale; }
      if (MASKS_PAIRS) { score = pair_score(b, head[r], token[r], near_key, score); }
      score = select(HIDDEN, score, (mine >= first[r]) & (mine < end[r]));
      let old_max = row_max[r];
      row_max[r] = max(old_max, score);
      if (KEYS == 2u) { row_max[r] = max(row_max[r], quadSwapX(row_max[r])); }
      shrink[r] = exp2(old_max - row_max[r]);
      near[r] = exp2(score - row_max[r]);
      far[r] = quadSwapX(near[r]);
      row_sum[r] = row_sum[r] * shrink[r] + near[r];
    }

    // acc = acc * shrink + weights * values.
    let near_values = &value[v_base + near_key * v_parts];
    let far_values = &value[v_base + far_key * v_parts];
    for (var e = 0u; e < SLICES_E; e++) { // unrolled
      let values = vec4<f32>((*near_values)[e]);
      for (var r = 0u; r < ROWS; r++) { // unrolled
        acc[e * ROWS + r] = acc[e * ROWS + r] * shrink[r] + values * near[r];
      }
      if (KEYS == 2u) {
        let others = vec4<f32>((*far_values)[e]);
        for (var r = 0u; r < ROWS; r++) { // unrolled
          acc[e * ROWS + r] += others * far[r];
        }
      }
    }
  }

  // SwiftShader executes what follows a loop in each of its turns; a loop of one turn around it keeps it out.
  for (var once = 0u; once < 1u; once++) {
    for (var e = 0u; e < SLICES_E; e++) { // unrolled
      for (var r = 0u; r < ROWS; r++) { // unrolled
        loaded[e][r] = acc[e * ROWS + r];
      }
    }
    for (var r = 0u; r < ROWS; r++) { // unrolled
      if (KEYS == 2u) { row_sum[r] += quadSwapX(row_sum[r]); }
      if (tile * ROWS + r < rows) {
        let seen_max = select(HIDDEN, row_max[r], row_max[r] > HIDDEN_LIMIT);
        if (lane == 0u) { end_row(split, b, head[r], token[r], seen_max, row_sum[r]); }
        for (var e = 0u; e < SLICES_E; e++) {
          end_acc(split, b, head[r], token[r], lane * SLICES_E + e, loaded[e][r]);
        }
      }
    }
  }
}
