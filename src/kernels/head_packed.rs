//! The packed kernels behind the ops of [`head_codes`](super::head_codes): four multiply-adds of codes an instruction.
//!
//! They need no floats on the way and no exact parts, and a lane has its results in registers: with the few terms of a head's scores what
//! counts is how fast maps are written, and with the few channels of its mix, how fast they are read.

use super::head_product::{BUSY, HeadProduct};
use crate::gpu::{Capabilities, Dispatch, Tier};
use crate::wgsl;

/// A workgroup's share of the result, the rows and columns of it that one invocation computes, how many of them share the sums of the
/// same results, and the k of a slice in sixteens.
#[derive(Clone, Copy, Debug)]
struct Variant {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
    split: usize,
    quads: usize,
}

const fn variant([m, n]: [usize; 2], [rows, columns]: [usize; 2], split: usize, quads: usize) -> Variant {
    // Parts of sums lie where the left slice was.
    assert!(split == 1 || n / 4 <= (quads | 1));
    assert!(quads.is_multiple_of(split) && n.is_multiple_of(columns) && m.is_multiple_of(rows));
    Variant { m, n, rows, columns, split, quads }
}

/// Of results as wide as a map, which are written, and as narrow as a head's channels, for which maps are read: for many tiles, and for few.
const WIDE: [Variant; 2] = [variant([32, 128], [4, 8], 1, 2), variant([32, 64], [4, 4], 1, 2)];
const NARROW: [Variant; 2] = [variant([64, 32], [4, 4], 1, 8), variant([32, 32], [4, 4], 4, 8)];

/// The kernels on this device, best first.
pub(super) fn kernels(product: &HeadProduct, device: &Capabilities) -> Vec<Dispatch> {
    if !product.is_on_codes() || !device.allows(Tier::Packed) {
        return Vec::new();
    }
    let [large, small] = if product.right.along_k { WIDE } else { NARROW };
    let best = if product.tiles([large.m, large.n]) >= BUSY { [large, small] } else { [small, large] };
    best.map(|variant| kernel(product, variant)).into()
}

fn kernel(product: &HeadProduct, Variant { m, n, rows, columns, split, quads }: Variant) -> Dispatch {
    let (left, right, k) = (product.left, product.right, product.extents[2]);
    let dispatch = Dispatch::new(wgsl!("heads/packed.wgsl"), 2)
        .tier(Tier::Packed)
        .constant("ROWS", rows)
        .constant("COLUMNS", columns)
        .constant("SPLIT", split)
        .constant("QUADS", quads)
        .flag("SMALL", k * 255 * 255 <= 1 << 24)
        .flag("WHOLE_QUADS", k.is_multiple_of(16))
        .part(wgsl!("heads/quads.wgsl"))
        .part(if left.width == 16 { wgsl!("heads/left_quads.wgsl") } else { wgsl!("heads/left_codes.wgsl") });
    let dispatch = match right.along_k {
        true if right.width == 16 => dispatch.part(wgsl!("heads/right_rows.wgsl")).part(wgsl!("heads/right_quads.wgsl")),
        true => dispatch.part(wgsl!("heads/right_rows.wgsl")).part(wgsl!("heads/right_codes.wgsl")),
        false => dispatch.part(wgsl!("heads/columns.wgsl")).part(wgsl!("heads/right_columns.wgsl")).flag("RIGHT_FOURS", right.width >= 4),
    };
    product.place(dispatch, [m, n])
}
