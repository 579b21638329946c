//! The kernels on cooperative matrices behind the ops of [`heads`](super::heads) and [`head_codes`](super::head_codes): which products they
//! take, and on which tiles.
//!
//! All subgroups of a workgroup have 32 × 32 results each. A result that is no wider than that, as a head's mix is, and one with too few
//! tiles for a large GPU, lets them share the sums instead: each multiplies its part of every slice of k.

use super::head_product::{BUSY, HeadProduct, PART};
use crate::gpu::{Capabilities, Dispatch, Tier};
use crate::tensor::DType;
use crate::wgsl;

const LANES: usize = 128;
/// Rows and columns of the results of one subgroup.
const BLOCK: usize = 32;
/// Beyond every sum: halves are added up in one part.
const NO_PART: usize = 1 << 30;

/// A workgroup's share of the result, and the k that it multiplies between two barriers.
#[derive(Clone, Copy, Debug)]
struct Variant {
    m: usize,
    n: usize,
    slice: usize,
}

/// The kernels on this device, best first; none where it has no cooperative matrices, or the operands are neither halves nor codes.
pub(super) fn kernels(product: &HeadProduct, device: &Capabilities) -> Vec<Dispatch> {
    let fits = product.is_on_codes() || [product.left.dtype, product.right.dtype] == [DType::F16; 2];
    if !fits || !device.allows(Tier::Matrix) {
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
        [Variant { m: 64, n: 32, slice: 64 }, Variant { m: 32, n: 32, slice: 128 }]
    } else {
        [Variant { m: 64, n: 64, slice: short }, Variant { m: 32, n: 64, slice: short }]
    };
    if product.tiles([large.m, large.n]) >= BUSY { [large, small] } else { [small, large] }
}

impl Variant {
    /// Subgroups that share the sums of the same results.
    fn subgroups_k(self) -> usize {
        LANES / 32 / (self.m / BLOCK * self.n / BLOCK)
    }

    /// Products that are added up in f32: exactly, where they are of codes.
    fn part(self, product: &HeadProduct) -> usize {
        if product.is_on_codes() { PART * self.subgroups_k() } else { NO_PART }
    }

    fn is_in_parts(self, product: &HeadProduct) -> bool {
        product.extents[2] > self.part(product)
    }

    /// Vectors of four sums that are kept from part to part; the shader wants an array in any case.
    fn totals(self, product: &HeadProduct) -> usize {
        if self.is_in_parts(product) { self.m * self.n / product.y.width.min(4) } else { 1 }
    }

    /// Staged rows of an operand with so many rows of the tile, and chunks of eight in each.
    fn staged(self, along_k: bool, extent: usize) -> [usize; 2] {
        if along_k { [extent, self.slice / 8] } else { [self.slice, extent / 8] }
    }

    /// Workgroup memory: staged rows padded by a chunk, the subgroups' sums with rows padded by four, and totals.
    fn bytes(self, product: &HeadProduct) -> usize {
        let operand = |along_k, extent| {
            let [rows, chunks] = self.staged(along_k, extent);
            rows * (chunks + 1) * 16
        };
        let operands = operand(product.left.along_k, self.m) + operand(product.right.along_k, self.n);
        operands + LANES / 32 * BLOCK * (BLOCK + 4) * 4 + self.totals(product) * 16
    }
}

fn kernel(product: &HeadProduct, variant: Variant) -> Dispatch {
    let width = product.y.width.min(4);
    let mut dispatch = Dispatch::new(wgsl!("heads/matrix.wgsl"), 2)
        .tier(Tier::Matrix)
        .constant("LANES", LANES)
        .constant("PART", variant.part(product))
        .constant("TOTALS", variant.totals(product))
        .constant("WIDTH", width)
        .flag("IN_PARTS", variant.is_in_parts(product));
    dispatch.f16 = true;
    let operands = [("X", "LEFT", product.left, variant.m), ("W", "RIGHT", product.right, variant.n)];
    for (staged, name, operand, extent) in operands {
        let [rows, chunks] = variant.staged(operand.along_k, extent);
        let word = 4 / operand.dtype.size();
        dispatch = dispatch
            .flag(&format!("{staged}_ACROSS"), !operand.along_k)
            .constant(&format!("STAGED_{staged}"), rows)
            .constant(&format!("CHUNKS_{staged}"), chunks)
            .constant(&format!("ROWS_{staged}"), if operand.along_k { rows * chunks / LANES } else { 1 })
            .flag(&format!("{name}_SHIFTS"), operand.width < word);
    }
    dispatch = dispatch
        .part(wgsl!("gemm/slices.wgsl"))
        .part(wgsl!("heads/chunks.wgsl"))
        .part(if product.is_on_codes() { wgsl!("heads/chunks_codes.wgsl") } else { wgsl!("heads/chunks_halves.wgsl") })
        .part(if product.left.width == 8 { wgsl!("heads/left_eights.wgsl") } else { wgsl!("heads/left_words.wgsl") })
        .part(if product.right.width == 8 { wgsl!("heads/right_eights.wgsl") } else { wgsl!("heads/right_words.wgsl") })
        .part(match width {
            4 => wgsl!("heads/sums_vec4.wgsl"),
            2 => wgsl!("heads/sums_vec2.wgsl"),
            _ => wgsl!("heads/sums_scalar.wgsl"),
        });
    product.place(dispatch, [variant.m, variant.n]).constant("SLICE_K", variant.slice)
}
