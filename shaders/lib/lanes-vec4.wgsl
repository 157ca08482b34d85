// Four elements at a time: for head sizes that are multiples of 4.

alias Elem = f32;
alias Lane = vec4<Elem>;
alias Wide = vec4<f32>;
/// Elements of a lane.
const LANE: u32 = 4u;

fn lane_dot(a: Wide, b: Wide) -> f32 { return dot(a, b); }
/// Element `index` of a lane.
fn lane_at(a: Wide, index: u32) -> f32 { return a[index]; }
/// The lane with element `index` replaced.
fn lane_with(a: Wide, index: u32, value: f32) -> Wide {
  var lane = a;
  lane[index] = value;
  return lane;
}
