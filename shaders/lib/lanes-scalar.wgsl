// One element at a time: for head sizes that are no multiple of 4.

alias Elem = f32;
alias Lane = Elem;
alias Wide = f32;
/// Elements of a lane.
const LANE: u32 = 1u;

fn lane_dot(a: Wide, b: Wide) -> f32 { return a * b; }
/// Element `index` of a lane.
fn lane_at(a: Wide, index: u32) -> f32 { return a; }
/// The lane with element `index` replaced.
fn lane_with(a: Wide, index: u32, value: f32) -> Wide { return value; }
