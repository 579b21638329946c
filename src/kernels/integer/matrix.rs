//! The kernels on cooperative matrices of bytes: which products of codes they take, and on which tile.
//!
//! # Tried and left
//!
//! On an H100 (driver 580.159, 2026-11-26), codes, in TOP/s for 4096³:
//!
//! | what | 4096³ |
//! | --- | --- |
//! | 128 × 128 tile, 8 subgroups of 64 × 32, slices of 64 codes | 332 |
//! | the same, slices of 128, steps of the slice written out; as a loop | 449; 469 |
//! | the same as a loop, chunks under way in an array; matrices in an array, too, 64 × 64 | 330; 58 |
//! | 128 × 128 tile, 4 subgroups of 64 × 64, slices of 64; of 128 | 476; 462 |
//! | 256 × 128 or 128 × 256 tile, subgroups of 64 × 64, slices of 64 | 486 |
//! | two slices in workgroup memory, one barrier each | 363 to 400 |
//! | staged rows without padding; padded by 32 bytes in place of 16 | 200; 271 |
//! | workgroup memory as f32 or two of them in place of four | 330 |
//!
//! The last few percent of subgroups of 64 × 64 are left, because half as many tiles suit fewer layers.

use crate::gpu::{Capabilities, Dispatch};
use crate::kernels::gemm::{Operands, Product, Tile};
use crate::wgsl;

/// Codes of a chunk, which is what an invocation loads at once.
const CHUNK: usize = 16;

/// A tile, the rows that a subgroup computes (32 columns each), its subgroups, and the codes of a slice.
#[derive(Clone, Copy, PartialEq)]
struct Variant {
    tile: Tile,
    rows: usize,
    subgroups: usize,
    slice: usize,
}

const LARGE: Variant = Variant { tile: Tile { m: 128, n: 128 }, rows: 64, subgroups: 8, slice: 128 };
/// For sums that are short.
const SHALLOW: Variant = Variant { slice: 64, ..LARGE };
/// For results that are narrow.
const NARROW: Variant = Variant { tile: Tile { m: 128, n: 64 }, rows: 64, subgroups: 4, slice: 64 };
const SMALL: Variant = Variant { tile: Tile { m: 64, n: 64 }, rows: 32, subgroups: 4, slice: 128 };
/// Two and four subgroups that share every slice: for results that are few.
const PAIRS: Variant = Variant { tile: Tile { m: 32, n: 64 }, ..SMALL };
const FOURS: Variant = Variant { tile: Tile { m: 32, n: 32 }, slice: 256, ..SMALL };

const ALL: [Variant; 6] = [LARGE, SHALLOW, NARROW, SMALL, PAIRS, FOURS];

/// Workgroups of [`LARGE`] that keep a large GPU busy: one for each of some 130 processors.
const BUSY: usize = 130;
/// The same of the others, which are half as large or less.
const BUSY_SMALL: usize = 2 * BUSY;

impl Variant {
    fn lanes(self) -> usize {
        32 * self.subgroups
    }

    /// Subgroups that have the same results.
    fn shares(self) -> usize {
        self.subgroups / (self.tile.m / self.rows * self.tile.n / 32)
    }

    /// The best for a product.
    fn of(product: &Product) -> Self {
        let fills = |v: &Self| product.n > v.tile.n / 2 && product.m > v.tile.m / 2;
        if fills(&LARGE) && product.tiles(LARGE.tile) >= BUSY {
            return if product.k > SHALLOW.slice { LARGE } else { SHALLOW };
        }
        if product.tiles(NARROW.tile) >= BUSY_SMALL {
            return NARROW;
        }
        let small = [SMALL, PAIRS, FOURS].into_iter().filter(|v| product.k >= v.slice);
        small.clone().find(|v| product.tiles(v.tile) >= BUSY_SMALL).or(small.last()).unwrap_or(SMALL)
    }
}

/// All kernels for a product of codes on this device, best first; none where it has no such matrices, or the operands cannot be loaded
/// sixteen codes at a time. `finish` adds what happens to the sums.
pub(super) fn kernels(product: &Product, device: &Capabilities, finish: impl Fn(Dispatch, Tile) -> Dispatch) -> Vec<Dispatch> {
    let (along_k, x) = match product.operands {
        Operands::Windows(window) => (window.group_channels, wgsl!("gemm/x_windows_chunks.wgsl")),
        _ => (product.k, wgsl!("gemm/x_rows_chunks.wgsl")),
    };
    if !device.allows_bytes() || !along_k.is_multiple_of(CHUNK) || !product.n.is_multiple_of(4) {
        return Vec::new();
    }
    let best = Variant::of(product);
    let kernel = |variant: Variant| {
        let dispatch = Dispatch::new(wgsl!("integer/matrix.wgsl"), 2)
            .on_bytes()
            .constant("LANES", variant.lanes())
            .constant("TILE_M", variant.tile.m)
            .constant("TILE_N", variant.tile.n)
            .constant("SUB_M", variant.rows)
            .constant("SHARES", variant.shares())
            .constant("SLICE_K", variant.slice)
            .constant("CHUNK", CHUNK)
            .part(x)
            .part(wgsl!("gemm/w_rows_chunks.wgsl"))
            .part(wgsl!("integer/matrix_y.wgsl"));
        finish(dispatch, variant.tile)
    };
    [best].into_iter().chain(ALL.into_iter().filter(|&v| v != best)).map(kernel).collect()
}
