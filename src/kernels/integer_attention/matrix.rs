//! The kernel on cooperative matrices of bytes: which attention it takes, and how rows are shared.
//!
//! # Tried and left
//!
//! On an H100 (driver 580.159, 2026-11-26), µs of a layer of DETR-R50 4-4-8 by timestamps, encoder and cross attention of the decoder; the
//! first two in a model (`qdetr bench model --preset detr-resnet50 --precision f16 --bits 4-4-8 --batch 8 --profile --top 400`, and
//! `--batch 1`), the others by themselves, where the first two are 159; 30 | 30; 15 and 129; 25 | 26; 12:
//!
//! | what | batch 8 | batch 1 |
//! | --- | --- | --- |
//! | before: a map for all subgroups in workgroup memory, divisions by parameters, a barrier for two steps of each tree | 164; 31 | 31; 16 |
//! | this | 130; 26 | 26; 13 |
//! | one share everywhere | 129; 25 | 26; 14 |
//! | two shares everywhere | ; 33 | 32; 12 |
//! | every score compared with a limit in floats; rows of sums padded by one vector, so that stores of four meet in banks | 137; 27 | 27; 14 |
//! | that, and no limits at all, which is wrong | 127; 25 | 25; 13 |
//! | the same with rows of sums padded by two | 121; 24 | 25; 13 |
//! | limits in floats, and the sum of a map's codes on matrices: 142 registers a lane, one workgroup on a processor | 177; 33 | 33; 13 |
//! | limits in floats, and loads kept from being moved down to where they are needed: keys, or values: over 128 registers | 173; 33 | 32; 13 |
//! | both, in 128 registers | 137; 27 | 27; 14 |
//! | limits in floats, and keys or values in rows of another padding | 138; 27 | 27; 14 |
//! | 32 queries a workgroup, scores kept as halves, exponentials computed twice: 143 registers | 212; 46 | 41; 27 |
//! | before: the workgroup's barriers where a subgroup's own would do, sums to floats by conversion | 187; 34 | 33; 17 |
//! | before: two subgroups for the same values, each its channels; states read where they are needed | 205; 37 | 37; 20 |
//! | before: keys and queries loaded from storage as matrices, which is byte by byte; four pieces | 416; 67 | 69; 21 |
//!
//! Registers decide more than arithmetic: with more than 128 a lane a processor has one workgroup at a time, and the driver does not mind.
//! Exponentials are three of the µs. Of some 2500 instructions of a lane half are its 64 scores', and workgroup memory is busy for half of
//! the time. To be tried: 32 queries a workgroup in 128 registers, for which keys and values would be loaded and turned once.

use super::{IntegerAttention, Sizes};
use crate::gpu::{Capabilities, Dispatch};
use crate::kernels::rows::lanes;
use crate::tensor::TensorType;
use crate::wgsl;

/// Channels of a head: k of a product of matrices of bytes, so that a score is one of them.
const DEPTH: usize = 32;
/// Queries of a workgroup.
const TILE: usize = 16;
/// Lanes of a row's softmax: of one subgroup to sixteen.
const LANES: std::ops::RangeInclusive<usize> = 8..=128;
/// Lanes of a row's softmax that a subgroup stands for.
const PIECES: usize = 8;
const MOST_STEPS: usize = 4;
/// Invocations of a workgroup that have room for their registers.
const MOST_INVOCATIONS: usize = 512;
/// Subgroups that keep a large GPU busy: with fewer, a row's steps are shared by two where one would have them.
const BUSY: usize = 1056;

/// How a row is shared.
#[derive(Clone, Copy)]
struct Variant {
    /// Lanes of a row's softmax.
    lanes: usize,
    /// By how many subgroups the steps of one are shared.
    shares: usize,
    keys: usize,
}

impl Variant {
    fn subgroups(self) -> usize {
        self.shares * self.lanes / PIECES
    }

    /// Bytes of workgroup memory: vectors of shares, queries and numbers, and words of what counts and of rows.
    fn bytes(self) -> usize {
        16 * (self.subgroups() * TILE * 10 + TILE * 3 + 16) + 4 * (self.keys.div_ceil(32) * 8 + 2 * TILE)
    }

    fn fits(self, device: &Capabilities) -> bool {
        self.bytes() <= device.workgroup_memory as usize && self.subgroups() * 32 <= MOST_INVOCATIONS.min(device.invocations as usize)
    }
}

/// Whether the device has such matrices and the attention of so many queries and keys fits.
pub(super) fn fits(op: IntegerAttention, inputs: &[TensorType], device: &Capabilities) -> bool {
    let Sizes { keys, depth, .. } = op.sizes(inputs);
    let (layout, steps) = op.layout(inputs);
    let is_shared = depth == DEPTH && LANES.contains(&layout.lanes) && steps <= MOST_STEPS;
    device.allows_bytes() && is_shared && Variant { lanes: layout.lanes, shares: 1, keys }.fits(device)
}

/// The kernels, best first, where it [`fits`].
pub(super) fn kernels(op: IntegerAttention, inputs: &[TensorType], device: &Capabilities) -> Vec<Dispatch> {
    if !fits(op, inputs, device) {
        return Vec::new();
    }
    let Sizes { batch, queries, keys, .. } = op.sizes(inputs);
    let (lanes, steps) = (op.layout(inputs).0.lanes, op.layout(inputs).1);
    let groups = queries.div_ceil(TILE) * batch * op.heads;
    let is_busy = groups * lanes / PIECES >= BUSY;
    let shares = if is_busy { [1, 2] } else { [2, 1] };
    let variants = shares.into_iter().map(|shares| Variant { lanes, shares, keys });
    let fitting = variants.filter(|variant| variant.shares <= steps && variant.fits(device));
    fitting.map(|variant| kernel(op, inputs, variant).over_groups(groups)).collect()
}

fn kernel(op: IntegerAttention, inputs: &[TensorType], variant: Variant) -> Dispatch {
    let dispatch = lanes(Dispatch::new(wgsl!("integer_attention/matrix.wgsl"), inputs.len()), 4)
        .on_bytes()
        .constant("LANES", variant.lanes)
        .constant("SHARES", variant.shares)
        .constant("QUERIES", op.sizes(inputs).queries)
        .constant("KEYS", variant.keys)
        .constant("HEADS", op.heads);
    op.finish(dispatch, inputs).part(wgsl!("heads/columns.wgsl"))
}
