//! The optimizer's ops on flat arenas: norm of the gradient, clipping and skipping, AdamW, averages, accumulation.
//!
//! An arena is f32 `[n]` with n a multiple of [`BLOCK`]; each block belongs to one tensor, so that what differs between tensors is
//! looked up once a block. All updates are in place.

mod accumulate;
mod adamw;
mod average;
mod control;
mod square_sums;

pub use accumulate::Accumulate;
pub use adamw::{AdamW, Update};
pub use average::Average;
pub use control::{CONTROL, Control, STATE};
pub use square_sums::SquareSums;

use crate::gpu::{Dispatch, Words};
use crate::graph::check::Case;
use crate::graph::{Graph, Var, ids};
use crate::tensor::{DType, TensorType};

/// Elements that belong together in an arena.
pub const BLOCK: usize = 64;

const GROUP: usize = 256;
/// The elements that one invocation takes.
const WIDTH: usize = 4;

/// `[2 · parts]` sums over an arena: see [`SquareSums`].
pub fn square_sums(g: &mut Graph, x: Var) -> Var {
    g.apply(SquareSums, &[x])
}

/// What the step does with its gradient: see [`Control`]. Returns the control vector.
pub fn control(g: &mut Graph, op: Control, parts: Var, inverse_scale: Var, state: Var) -> Var {
    g.apply(op, &[parts, inverse_scale, state])
}

/// `average += rate · (x − average)` on an arena, in place.
pub fn average(g: &mut Graph, average: Var, x: Var, rate: Var) {
    g.apply(Average, &[average, x, rate]);
}

/// `sum += x` on an arena, in place; `sum = x` where `keep` u32 `[1]` is 0.
pub fn accumulate(g: &mut Graph, sum: Var, x: Var, keep: Var) {
    g.apply(Accumulate, &[sum, x, keep]);
}

/// Whether a type is that of an arena.
fn is_arena(ty: &TensorType) -> bool {
    ty.shape.rank() == 1 && ty.dtype == DType::F32 && ty.shape.len().is_multiple_of(BLOCK)
}

/// Checks that the inputs are two equal arenas and one number of the given type.
#[track_caller]
fn check_pair(op: &str, inputs: &[TensorType], number: DType) {
    let one = TensorType::new([1], number);
    let fits = inputs.len() == 3 && is_arena(&inputs[0]) && inputs[1] == inputs[0] && inputs[2] == one;
    assert!(fits, "{op}: wants two equal arenas f32 [n], n a multiple of {BLOCK}, and {one}, found {}", ids(inputs));
}

/// A kernel over the vec4s of an arena whose first input is updated in place: the inputs after it are bound.
fn over_arena(dispatch: Dispatch, n: usize, params: impl FnOnce(Words) -> Words) -> Dispatch {
    dispatch.constant("GROUP", GROUP).params(params(Words::of([n / WIDTH]))).over_items(n / WIDTH, GROUP)
}

/// Sizes of arenas: one block, one workgroup and a block more, primes, past a part of the square sums.
const TEST_SIZES: [usize; 6] = [BLOCK, 3 * BLOCK, 17 * BLOCK, 257 * BLOCK, 521 * BLOCK, 1021 * BLOCK];

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    [square_sums::cases(), control::cases(), adamw::cases(), average::cases(), accumulate::cases()].concat()
}
