// Attention, stationary design, for CPU adapters with subgroups of exactly 4 (SwiftShader): 8 query rows per invocation meet one
// K/V block, 64 keys at a time. No barriers, no workgroup memory; state in, state out, or straight into the output.
//
// What costs there (read off its machine code): an indexed read or write, as much as 14 multiply-adds; a loop body larger than
// the instruction cache, more than half of the speed; a number that a loop carries, 1.5 multiply-adds a turn. So nothing that
// stays is ever indexed by a variable: the two loops below are unrolled by specialize() wherever "unrolled" stands.
// - Scores: Q stays (ROWS x HEAD_DIM, read by constant index), one key a turn passes by: ROWS x HEAD_DIM multiply-adds.
// - Output: the weights stay (ROWS x KEYS), one column of the values a turn passes by: ROWS x KEYS multiply-adds.
// The four invocations of a quad share what passes by: each reads a quarter and takes the rest by quadSwap, one instruction
// each. Invocation l meets what partner l ^ i read as number i, so Q and weights lie in that order too.
// What follows a loop is executed in each of its turns; a loop of one turn (`once`) around it keeps it out.
// Online softmax in base 2 (FlashAttention, arXiv 2205.14135). A row is one token of one of the query heads that share a K/V
// head, so that grouped queries read K/V once. Registers: none to speak of; private memory: Q, weights and acc.
//
// Instructions per key there (8 rows, head size 64): scores 5,600, exponentials 1,800, output 5,000, for 1,024 multiply-adds.
// Tried in vain: four keys or four columns a turn (its loops outgrow the instruction cache: half of the speed), Q and weights
// indexed in memory instead of named (a store more per read), weights rescaled in an `if` (it is walked by every turn).
// 16 rows were up to a fifth faster, and took 5 to 12 s to compile.
// Bench: SwiftShader in Chrome: prefill-1024 f32 128 ms, 16.8 GFLOP/s (41% of FMA peak).

diagnostic(off, subgroup_uniformity);

const WORKGROUP_SIZE: u32 = 4u;
/// Under a causal mask the last rows have most to do: whether they begin first.
const LONGEST_FIRST: bool = true;
/// Query rows that one invocation holds, and keys of a tile: multiples of 4.
const ROWS: u32 = 8u;
const KEYS: u32 = 64u;
const KEY_GROUPS: u32 = KEYS / 4u;
const MOST_KEPT: u32 = max(KEYS, HEAD_DIM);
const Q_SIZE: u32 = LANES_D * ROWS;
const P_SIZE: u32 = KEY_GROUPS * ROWS;

/// What the quad's invocations hold: one's own, then that of partner 1, 2 and 3 (lane ^ i).
fn of_quad(mine: f32) -> vec4<f32> {
  return vec4<f32>(mine, quadSwapX(mine), quadSwapY(mine), quadSwapDiagonal(mine));
}

/// Smallest and largest over the quad: its invocations must walk the same keys.
fn quad_min(x: u32) -> u32 {
  let pair = min(x, quadSwapX(x));
  return min(pair, quadSwapY(pair));
}

fn quad_max(x: u32) -> u32 {
  let pair = max(x, quadSwapX(x));
  return max(pair, quadSwapY(pair));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(global_invocation_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  // The invocations of a quad share K/V head and batch entry, and take row tiles in a row.
  let index = id.y * groups.x * WORKGROUP_SIZE + id.x;
  let lane = local & 3u;
  let rows = params.seq_len * GROUP;
  let quads = (rows + 4u * ROWS - 1u) / (4u * ROWS);
  let units = params.batch * params.kv_heads;
  let b = index / 4u % units / params.kv_heads;
  let k = index / 4u % params.kv_heads;
  let split = index / 4u / units / quads;
  if (split >= params.splits) { return; }
  let place = index / 4u / units % quads;
  let quad = select(place, quads - 1u - place, CAUSAL && LONGEST_FIRST);
  let first_row = (quad * 4u + lane) * ROWS;

  // Of each row: Q in the quad's order, the run of keys that it sees, maximum, sum, acc. Rows past the end repeat the last.
  var first: array<u32, ROWS>; // unrolled
  var end: array<u32, ROWS>; // unrolled
  var row_max: array<f32, ROWS>; // unrolled
  var row_sum: array<f32, ROWS>; // unrolled
  var acc: array<array<f32, ROWS>, VALUE_DIM>;
  // Q on its way to where it stays; then the scores of a tile, then their weights: [key][row], keys of a group of four in the
  // quad's order.
  var weights: array<array<f32, ROWS>, MOST_KEPT>;
  var start = 0xffffffffu;
  var stop = 0u;
  for (var r = 0u; r < ROWS; r++) { // unrolled
    let row = min(first_row + r, rows - 1u);
    let t = row / GROUP;
    let h = k * GROUP + row % GROUP;
    let visible = visible_keys(b, t);
    first[r] = max(visible.x, split * params.split_keys);
    end[r] = min(visible.y, (split + 1u) * params.split_keys);
    start = min(start, first[r]);
    stop = max(stop, end[r]);
    row_max[r] = begin_max(split, b, h, t);
    row_sum[r] = begin_sum(split, b, h, t);
    let at = params.q_skip + b * params.q_batch + t * params.q_token + h * params.q_head;
    for (var d = 0u; d < LANES_D; d++) {
      for (var i = 0u; i < 4u; i++) { weights[4u * d + i][r] = f32(query[at + 4u * d + (lane ^ i)]); }
    }
    for (var e = 0u; e < LANES_E; e++) {
      let begun = begin_acc(split, b, h, t, e);
      for (var i = 0u; i < 4u; i++) { acc[4u * e + i][r] = begun[i]; }
    }
  }
  start = quad_min(start);
  stop = quad_max(stop);
  var q: array<vec4<f32>, Q_SIZE>; // unrolled
  for (var d = 0u; d < LANES_D; d++) { // unrolled
    for (var r = 0u; r < ROWS; r++) { // unrolled
      q[d * ROWS + r] = vec4<f32>(weights[4u * d][r], weights[4u * d + 1u][r], weights[4u * d + 2u][r], weights[4u * d + 3u][r]);
    }
  }

  let k_base = params.k_skip + b * params.k_batch + k * params.k_head + lane;
  let v_base = params.v_skip + b * params.v_batch + k * params.v_head;
  let last_key = params.kv_len - 1u;
  for (var s = start; s < stop; s += KEYS) {
    let count = min(KEYS, stop - s);
    var old_max: array<f32, ROWS>; // unrolled
    for (var r = 0u; r < ROWS; r++) { // unrolled
      old_max[r] = max(row_max[r], HIDDEN_LIMIT);
    }
    for (var j = 0u; j < count; j++) {
      let key_at = k_base + min(s + j, last_key) * params.k_token;
      var products: array<f32, ROWS>; // unrolled
      for (var r = 0u; r < ROWS; r++) { // unrolled
        products[r] = 0.0;
      }
      for (var d = 0u; d < LANES_D; d++) { // unrolled
        let keys = of_quad(f32(key[key_at + 4u * d]));
        for (var r = 0u; r < ROWS; r++) { // unrolled
          products[r] += dot(q[d * ROWS + r], keys);
        }
      }
      let slot = &weights[(j & (KEYS - 4u)) | ((j ^ lane) & 3u)];
      for (var r = 0u; r < ROWS; r++) { // unrolled
        let score = select(HIDDEN, scaled_score(products[r]), (s + j >= first[r]) & (s + j < end[r]));
        row_max[r] = max(row_max[r], score);
        (*slot)[r] = score;
      }
    }

    for (var once = 0u; once < 1u; once++) {
      // Online softmax: what the old sums shrink by, weights in place of the scores.
      var shrink: array<f32, ROWS>; // unrolled
      for (var r = 0u; r < ROWS; r++) { // unrolled
        shrink[r] = exp2(old_max[r] - max(row_max[r], HIDDEN_LIMIT));
        row_sum[r] *= shrink[r];
      }
      for (var j = 0u; j < KEYS; j++) {
        let slot = &weights[j];
        let is_filled = ((j & (KEYS - 4u)) | ((j ^ lane) & 3u)) < count;
        for (var r = 0u; r < ROWS; r++) { // unrolled
          let weight = select(0.0, exp2((*slot)[r] - max(row_max[r], HIDDEN_LIMIT)), is_filled);
          row_sum[r] += weight;
          (*slot)[r] = weight;
        }
      }

      for (var once_more = 0u; once_more < 1u; once_more++) {
        // acc = acc * shrink + weights * values, a column of the values at a time.
        var value_at: array<u32, KEY_GROUPS>; // unrolled
        for (var g = 0u; g < KEY_GROUPS; g++) { // unrolled
          value_at[g] = v_base + min(s + 4u * g + lane, last_key) * params.v_token;
        }
        var p: array<vec4<f32>, P_SIZE>; // unrolled
        for (var g = 0u; g < KEY_GROUPS; g++) { // unrolled
          for (var r = 0u; r < ROWS; r++) { // unrolled
            p[g * ROWS + r] = vec4<f32>(weights[4u * g][r], weights[4u * g + 1u][r], weights[4u * g + 2u][r], weights[4u * g + 3u][r]);
          }
        }
        for (var e = 0u; e < VALUE_DIM; e++) {
          let column = &acc[e];
          var sums: array<f32, ROWS>; // unrolled
          for (var r = 0u; r < ROWS; r++) { // unrolled
            sums[r] = (*column)[r] * shrink[r];
          }
          for (var g = 0u; g < KEY_GROUPS; g++) { // unrolled
            let values = of_quad(f32(value[value_at[g] + e]));
            for (var r = 0u; r < ROWS; r++) { // unrolled
              sums[r] += dot(p[g * ROWS + r], values);
            }
          }
          for (var r = 0u; r < ROWS; r++) { // unrolled
            (*column)[r] = sums[r];
          }
        }
      }
    }
  }

  for (var once = 0u; once < 1u; once++) {
    for (var r = 0u; r < ROWS; r++) { // unrolled
      let row = first_row + r;
      if (row < rows) {
        let h = k * GROUP + row % GROUP;
        let factor = end_row(split, b, h, row / GROUP, row_max[r], row_sum[r]);
        for (var e = 0u; e < LANES_E; e++) {
          let lane_acc = vec4<f32>(acc[4u * e][r], acc[4u * e + 1u][r], acc[4u * e + 2u][r], acc[4u * e + 3u][r]);
          end_acc(split, b, h, row / GROUP, e, lane_acc * factor);
        }
      }
    }
  }
}
