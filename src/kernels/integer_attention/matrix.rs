//! The kernel on cooperative matrices of bytes: which attention it takes, and how rows are shared.

use super::{IntegerAttention, Sizes};
use crate::gpu::{Capabilities, Dispatch};
use crate::kernels::rows::lanes;
use crate::tensor::TensorType;
use crate::wgsl;

/// Channels of a head: k of a product of matrices of bytes, so that a score is one of them.
const DEPTH: usize = 32;
/// Queries of a workgroup, and keys of a product.
const TILE: usize = 16;
/// Lanes of a row's softmax: no more than rows of four steps have, with two subgroups at least and sixteen at most.
const LANES: std::ops::RangeInclusive<usize> = 8..=128;
const MOST_STEPS: usize = 4;

/// Pieces of four columns of a row that a subgroup has in a step, of so many lanes. With eight the largest rows fit; with four a lane has
/// half as many weights, so that more invocations run at once.
fn pieces(lanes: usize) -> usize {
    if lanes > 64 { 8 } else { 4 }
}

/// Whether the device has such matrices and the attention of so many queries and keys fits.
pub(super) fn fits(op: IntegerAttention, inputs: &[TensorType], device: &Capabilities) -> bool {
    let Sizes { queries, keys, depth, .. } = op.sizes(inputs);
    let (layout, steps) = op.layout(inputs);
    let is_whole = depth == DEPTH && queries >= TILE && keys >= TILE;
    device.allows_bytes() && is_whole && LANES.contains(&layout.lanes) && steps <= MOST_STEPS
}

/// The kernel, where it [`fits`].
pub(super) fn kernel(op: IntegerAttention, inputs: &[TensorType], device: &Capabilities) -> Option<Dispatch> {
    if !fits(op, inputs, device) {
        return None;
    }
    let Sizes { batch, queries, keys, .. } = op.sizes(inputs);
    let layout = op.layout(inputs).0;
    let tiles = queries.div_ceil(TILE);
    let dispatch = lanes(Dispatch::new(wgsl!("integer_attention/matrix.wgsl"), inputs.len()), 4)
        .on_bytes()
        .constant("LANES", layout.lanes)
        .constant("PIECES", pieces(layout.lanes))
        .constant("KEYS", keys);
    let dispatch = op.finish(dispatch, inputs).part(wgsl!("heads/columns.wgsl"));
    Some(dispatch.over_groups(tiles * batch * op.heads))
}
