//! The kernels on cooperative matrices behind the ops of [`heads`](super::heads) and [`head_values`](super::head_values): which products
//! they take, and on which tiles. Products of codes have [better ones](super::head_packed).
//!
//! All subgroups of a workgroup have 32 × 32 results each. A result that is no wider than that, as a head's mix is, and one with too few
//! tiles for a large GPU, lets them share the sums instead: each multiplies its part of every slice of k.
//!
//! # Tried and left
//!
//! Workgroup memory decides, as for [GEMMs](super::gemm::matrix). On NVIDIA's H100 (driver 580.159, 2026-11-26), in µs, products of DETR-R50's
//! backward at 8 × 800 × 1066, with one operand on codes: the mean of thirty mixes of 850 tokens, and scores of 850 × 850:
//!
//! | what | memory | mix |
//! | --- | --- | --- |
//! | 64 × 32 tile, slices of 32, sums in blocks of 16 × 16 | 11 KiB | 51 |
//! | the same, slices of 64 | 18 KiB | 60 |
//! | the same, slices of 128 | 33 KiB | 75 |
//! | the same, slices of 64, all sums at once | 33 KiB | 88 |
//!
//! | what | scores |
//! | --- | --- |
//! | 64 × 64 tile, slices of 32, sums in blocks of 16 × 16 | 120 |
//! | 32 × 128 tile | 166 |
//! | the portable kernel, 64 × 64 | 170 |

use super::head_product::{BUSY, HeadProduct};
use crate::gpu::{Capabilities, Dispatch, Tier};
use crate::tensor::DType;
use crate::wgsl;

const LANES: usize = 128;
/// Rows and columns of a block, of which a subgroup has two by two.
const BLOCK: usize = 16;

/// A workgroup's share of the result, and the k that it multiplies between two barriers.
#[derive(Clone, Copy, Debug)]
struct Variant {
    m: usize,
    n: usize,
    slice: usize,
}

/// The kernels on this device, best first; none where it has no cooperative matrices, or neither operand is halves.
pub(super) fn kernels(product: &HeadProduct, device: &Capabilities) -> Vec<Dispatch> {
    let halves = [product.left.dtype, product.right.dtype].map(|dtype| dtype == DType::F16);
    if product.y.dtype != DType::F16 || halves == [false; 2] || !device.allows(Tier::Matrix) {
        return Vec::new();
    }
    let has_room = |variant: &Variant| variant.bytes(product) <= device.workgroup_memory as usize;
    choices(product).into_iter().filter(has_room).map(|variant| kernel(product, variant)).collect()
}

/// Tiles, best first.
fn choices(product: &HeadProduct) -> [Variant; 2] {
    let [_, n, k] = product.extents;
    let short = if k <= 32 { 32 } else { 64 };
    let [large, small] = if n <= 32 {
        [Variant { m: 64, n: 32, slice: 32 }, Variant { m: 32, n: 32, slice: 64 }]
    } else {
        [Variant { m: 64, n: 64, slice: short }, Variant { m: 32, n: 64, slice: short }]
    };
    if product.tiles([large.m, large.n]) >= BUSY { [large, small] } else { [small, large] }
}

impl Variant {
    /// Staged rows of an operand with so many rows of the tile, and chunks of eight in each.
    fn staged(self, along_k: bool, extent: usize) -> [usize; 2] {
        if along_k { [extent, self.slice / 8] } else { [self.slice, extent / 8] }
    }

    /// Workgroup memory: staged rows padded by a chunk, and a block of each subgroup's sums.
    fn bytes(self, product: &HeadProduct) -> usize {
        let operand = |along_k, extent| {
            let [rows, chunks] = self.staged(along_k, extent);
            rows * (chunks + 1) * 16
        };
        let operands = operand(product.left.along_k, self.m) + operand(product.right.along_k, self.n);
        operands + LANES / 32 * BLOCK * BLOCK * 4
    }
}

fn kernel(product: &HeadProduct, variant: Variant) -> Dispatch {
    let width = product.y.width.min(4);
    let mut dispatch = Dispatch::new(wgsl!("heads/matrix.wgsl"), 2).tier(Tier::Matrix).constant("LANES", LANES).constant("WIDTH", width);
    dispatch.f16 = true;
    let operands = [("X", "LEFT", product.left, variant.m), ("W", "RIGHT", product.right, variant.n)];
    for (staged, name, operand, extent) in operands {
        let [rows, chunks] = variant.staged(operand.along_k, extent);
        dispatch = dispatch
            .flag(&format!("{staged}_ACROSS"), !operand.along_k)
            .constant(&format!("STAGED_{staged}"), rows)
            .constant(&format!("CHUNKS_{staged}"), chunks)
            .constant(&format!("ROWS_{staged}"), if operand.along_k { rows * chunks / LANES } else { 1 })
            .flag(&format!("{name}_SHIFTS"), operand.width * operand.dtype.size() < 4);
    }
    let on_codes = [product.left, product.right].map(|operand| operand.dtype == DType::I8);
    if on_codes.contains(&true) {
        dispatch = dispatch.part(wgsl!("heads/chunk_values.wgsl"));
    }
    dispatch = dispatch
        .part(wgsl!("gemm/slices.wgsl"))
        .part(wgsl!("heads/chunks.wgsl"))
        .part(if on_codes[0] { wgsl!("heads/left_values.wgsl") } else { wgsl!("heads/left_halves.wgsl") })
        .part(if on_codes[1] { wgsl!("heads/right_values.wgsl") } else { wgsl!("heads/right_halves.wgsl") })
        .part(if product.left.width >= 8 { wgsl!("heads/left_eights.wgsl") } else { wgsl!("heads/left_words.wgsl") })
        .part(if product.right.width >= 8 { wgsl!("heads/right_eights.wgsl") } else { wgsl!("heads/right_words.wgsl") })
        .part(match width {
            4 => wgsl!("heads/sums_vec4.wgsl"),
            2 => wgsl!("heads/sums_vec2.wgsl"),
            _ => wgsl!("heads/sums_scalar.wgsl"),
        });
    product.place(dispatch, [variant.m, variant.n]).constant("SLICE_K", variant.slice)
}
