//! The kernel on cooperative matrices of bytes: which attention it takes, and how rows are shared.
//!
//! # Tried and left
//!
//! On an H100 (driver 580.159, 2026-11-26), µs of a layer of DETR-R50 4-4-8 (`qdetr bench model --preset detr-resnet50 --precision f16
//! --bits 4-4-8 --batch 8 --profile --top 400`, and `--batch 1`), encoder and cross attention of the decoder:
//!
//! | what | batch 8 | batch 1 |
//! | --- | --- | --- |
//! | scores, softmax and mix one after the other | 234; 51 | 49; 31 |
//! | this | 160; 31 | 31; 16 |
//! | the keys of a step on their way during the one before, not all from the beginning | 169; 31 | 32; 16 |
//! | the workgroup's barriers where a subgroup's own would do, sums to floats by conversion | 187; 34 | 33; 17 |
//! | values in strips that are padded: one workgroup on a processor at a time, not two | 262; 48 | 49; 18 |
//! | four pieces of a row in a step in place of eight, twice as many subgroups | | 48; 16 |
//! | before: two subgroups for the same values, each its channels; states read where they are needed | 205; 37 | 37; 20 |
//! | before: keys and queries loaded from storage as matrices, which is byte by byte; four pieces | 416; 67 | 69; 21 |
//!
//! The time is latency, of barriers, of setting up and of loads of 32 bytes from rows of 256, more than arithmetic: of 208 µs of the last but
//! one, 198 were left without exponentials, 188 without making codes, 144 without the mix and 71 without all of that and the keys.
//! To be tried: 32 queries a workgroup, for which all of this is done once.

use super::{IntegerAttention, Sizes};
use crate::gpu::{Capabilities, Dispatch};
use crate::kernels::rows::lanes;
use crate::tensor::TensorType;
use crate::wgsl;

/// Channels of a head: k of a product of matrices of bytes, so that a score is one of them.
const DEPTH: usize = 32;
/// Queries of a workgroup.
const TILE: usize = 16;
/// Lanes of a row's softmax: of two subgroups to sixteen.
const LANES: std::ops::RangeInclusive<usize> = 8..=128;
const MOST_STEPS: usize = 4;

/// How rows are shared, and what of it lies in workgroup memory, in vectors of sixteen bytes.
#[derive(Clone, Copy)]
struct Variant {
    /// Lanes of a row's softmax.
    lanes: usize,
    /// Pieces of four columns of a row that a subgroup has in a step.
    pieces: usize,
    keys: usize,
}

impl Variant {
    fn new(lanes: usize, keys: usize) -> Self {
        // More of them are more work for each setting up, but there are to be two subgroups.
        Self { lanes, pieces: if lanes > 8 { 8 } else { 4 }, keys }
    }

    fn subgroups(self) -> usize {
        self.lanes / self.pieces
    }

    /// The strips of sums, or of the keys before them; behind them is what scores count as at most.
    fn strips(self) -> usize {
        self.subgroups() * TILE * (self.pieces + 1)
    }

    /// The codes of the map, behind which are strips of values.
    fn map(self) -> usize {
        TILE * (2 * self.keys.div_ceil(32) + 1)
    }

    /// What is in workgroup memory by turns.
    fn staged(self) -> usize {
        let limits = self.keys.div_ceil(4) + self.pieces;
        let (values, results, cells) = (self.subgroups() * 2 * DEPTH, self.subgroups() * 2 * TILE * 5, self.lanes * 4);
        (self.strips() + limits).max(self.map() + values).max(results).max(cells)
    }

    /// Bytes of workgroup memory, with the queries and rows of nine numbers.
    fn bytes(self) -> usize {
        16 * (self.staged() + TILE * 3 + 9 * 2)
    }
}

/// Whether the device has such matrices and the attention of so many queries and keys fits.
pub(super) fn fits(op: IntegerAttention, inputs: &[TensorType], device: &Capabilities) -> bool {
    let Sizes { keys, depth, .. } = op.sizes(inputs);
    let (layout, steps) = op.layout(inputs);
    let is_shared = depth == DEPTH && LANES.contains(&layout.lanes) && steps <= MOST_STEPS;
    device.allows_bytes() && is_shared && Variant::new(layout.lanes, keys).bytes() <= device.workgroup_memory as usize
}

/// The kernel, where it [`fits`].
pub(super) fn kernel(op: IntegerAttention, inputs: &[TensorType], device: &Capabilities) -> Option<Dispatch> {
    if !fits(op, inputs, device) {
        return None;
    }
    let Sizes { batch, queries, keys, .. } = op.sizes(inputs);
    let variant = Variant::new(op.layout(inputs).0.lanes, keys);
    let dispatch = lanes(Dispatch::new(wgsl!("integer_attention/matrix.wgsl"), inputs.len()), 4)
        .on_bytes()
        .constant("LANES", variant.lanes)
        .constant("PIECES", variant.pieces)
        .constant("STAGED", variant.staged())
        .constant("LIMITS", variant.strips())
        .constant("FIRST_V", variant.map())
        .constant("KEYS", keys)
        .flag("IS_ODD", variant.lanes.ilog2() % 2 == 1);
    let dispatch = op.finish(dispatch, inputs).part(wgsl!("heads/columns.wgsl"));
    Some(dispatch.over_groups(queries.div_ceil(TILE) * batch * op.heads))
}
