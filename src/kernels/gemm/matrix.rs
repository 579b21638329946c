//! The kernels for cooperative matrices: which products they take, on which tile, and how the operands are staged.
//!
//! # Tried and left
//!
//! On NVIDIA's H100 (driver 580.159, 2026-11-26), f16, in TFLOP/s for 4096³ and for a 3×3 convolution 256 → 256 on 8 × 50 × 67, in a harness
//! that is not kept, since most of these kernels are not (what is: `qdetr bench kernels --product 4096x4096x4096 --precision f16`):
//!
//! | what | memory | 4096³ | 3×3 |
//! | --- | --- | --- | --- |
//! | 128 × 128 tile, 4 subgroups of 64 × 64, slices of 32 ([`LARGE`]) | 24 KiB | 236 | 191 |
//! | the same, results in strips of 16 × 64 | 37 KiB | 148 | 138 |
//! | the same, slices of 64 and strips of 16 × 32 | 45 KiB | 218 | 166 |
//! | 8 subgroups of 64 × 32, slices of 64 ([`DEEP`]) | 44 KiB | 225 | 168 |
//! | the same, slices of 32 and strips of 16 × 32 | 38 KiB | 161 | 145 |
//! | 256 × 128 tile, 8 subgroups of 64 × 64, slices of 32 | 48 KiB | 227 | 172 |
//! | 128 × 64 tile, 4 subgroups of 64 × 32, slices of 32 | 20 KiB | 166 | 135 |
//! | 64 × 64 tile, 4 subgroups of 32 × 32, slices of 64 (as [`SMALL`], rows of results padded) | 23 KiB | 165 | 146 |
//! | the same, strips of 16 × 32 | 27 KiB | 91 | 104 |
//! | the same, slices of 32 and strips of 16 × 32 | 19 KiB | 96 | 110 |
//!
//! **Workgroup memory decides**: with this driver a processor takes workgroups only while they have less than some 50 KiB in all. A kernel
//! that does nothing else, with an array added that it never uses, falls from 240 to 151 between 24 and 28 KiB (two workgroups, then
//! one), and with a tile of 64 × 64 from 140 to 129 between 16 and 18 KiB (three, then two). So a block of 16 × 16 results of each subgroup
//! passes through it at a time; its rows of 64 bytes have no padding for the same reason.
//!
//! No difference: the slice that is under way in a struct of named chunks instead of arrays; loops over k and over chunks written out;
//! parameters as constants. Little, 6 % more or less: workgroup memory as 16-byte vectors that need no unpacking, which NVIDIA's own
//! benchmark uses, and which is not to be had: naga 30 wants the element type of the matrix. Chunks loaded as a struct of two `vec4<f16>`: a
//! quarter slower. No prefetch into registers: a fifth. Tests for the last k and the edge of the image where there are none: 151
//! instead of 168 on the convolution (`DEEP`).
//!
//! Residuals that are read one by one between stores cost a 1×1 convolution 256 → 1024 half of its time (388 against
//! 232 µs), because a compiler cannot move a load before a store that may be to the same place. Codes that are converted one by
//! one (91 TOP/s on the convolution) are slower than two at a time behind an exponent (106, and 135 with slices of 64).

use super::{Layout, Operands, Product, Tile};
use crate::gpu::{Capabilities, Dispatch, Tier, shader::Source};
use crate::tensor::DType;
use crate::wgsl;

/// Workgroups that keep a large GPU busy, which has some 130 processors.
const BUSY: usize = 100;
/// More than one for each of them.
const BUSY_TWICE: usize = 133;

/// A kernel: its tile, its subgroups with the results that each has, and the k of a slice, which it multiplies between two barriers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Variant {
    tile: Tile,
    subgroups: usize,
    sub: Tile,
    slice: usize,
}

/// Four subgroups of 64 × 64 results. Two workgroups are at work on a processor at once.
const LARGE: Variant = Variant { tile: Tile { m: 128, n: 128 }, subgroups: 4, sub: Tile { m: 64, n: 64 }, slice: 32 };
/// Eight of 64 × 32, and longer slices: one workgroup, for as many tiles as there are processors.
const DEEP: Variant = Variant { subgroups: 8, sub: Tile { m: 64, n: 32 }, slice: 64, ..LARGE };
/// Four subgroups of 32 × 32 results.
const SMALL: Variant = Variant { tile: Tile { m: 64, n: 64 }, subgroups: 4, sub: Tile { m: 32, n: 32 }, slice: 64 };
/// For short sums, and where chunks take many instructions to load ([`Narrow`]).
const SHALLOW: Variant = Variant { slice: 32, ..SMALL };
/// Two such subgroups share every slice, or four: for results that are few.
const PAIRS: Variant = Variant { tile: Tile { m: 32, n: 64 }, ..SMALL };
const FOURS: Variant = Variant { tile: Tile { m: 32, n: 32 }, slice: 128, ..SMALL };

const ALL: [Variant; 6] = [LARGE, DEEP, SMALL, SHALLOW, PAIRS, FOURS];

impl Variant {
    fn lanes(self) -> usize {
        32 * self.subgroups
    }

    /// Whether no slice reaches from one part of split sums into the next.
    fn keeps_splits(self, product: &Product) -> bool {
        product.splits == 1 || product.split_k().is_multiple_of(self.slice)
    }

    /// Whether each of its slices is of one tap and whole.
    fn is_aligned(self, product: &Product) -> bool {
        let run = match product.operands {
            Operands::Windows(window) => window.group_channels,
            Operands::Spread(window) => window.channels,
            Operands::Matrices(..) | Operands::Unfolded(_) => product.k,
        };
        run.is_multiple_of(self.slice)
    }
}

/// The best variant for a product.
fn best_of(product: &Product, is_narrow: bool) -> Variant {
    let is_busy = |variant: Variant, busy| product.tiles(variant.tile) >= busy;
    let is_wide = product.m > 64 && product.n > 64;
    let small = if is_narrow || product.k <= SHALLOW.slice { SHALLOW } else { SMALL };
    if is_wide && is_busy(LARGE, BUSY_TWICE) {
        LARGE
    } else if is_wide && is_busy(DEEP, BUSY) {
        DEEP
    } else if is_busy(small, BUSY) {
        small
    } else if is_busy(PAIRS, BUSY / 2) || !FOURS.keeps_splits(product) {
        PAIRS
    } else {
        FOURS
    }
}

/// All variants for a product, best first.
fn variants_of(product: &Product, is_narrow: bool) -> Vec<Variant> {
    let best = best_of(product, is_narrow);
    let rest = ALL.into_iter().filter(|&variant| variant != best && variant.keeps_splits(product));
    [best].into_iter().chain(rest).collect()
}

/// How an operand comes into workgroup memory: its pieces, and whether it is contiguous across k.
struct Staging {
    load: Source,
    across: bool,
}

/// The kernels for a product of halves on this device, best first; none where it has no cooperative matrices, or an operand
/// cannot be loaded eight elements at a time.
pub(super) fn kernels(product: &Product, device: &Capabilities) -> Vec<Dispatch> {
    if product.types[..2] != [DType::F16; 2] {
        return Vec::new();
    }
    let halves = [wgsl!("gemm/raw_x_halves.wgsl"), wgsl!("gemm/raw_w_halves.wgsl")];
    variants(product, device, halves, |product, dispatch, tile| product.surround(dispatch, tile))
}

/// The same for operands whose elements the pieces `raw` make halves of; `finish` adds parameters and results of the product as it
/// is computed.
pub(crate) fn variants(
    product: &Product,
    device: &Capabilities,
    raw: [Source; 2],
    finish: impl Fn(&Product, Dispatch, Tile) -> Dispatch,
) -> Vec<Dispatch> {
    let narrow = Narrow::of(product, 8).filter(|narrow| narrow.k() <= product.split_k());
    let product = &narrow.map_or_else(|| product.clone(), |narrow| Product { k: narrow.k(), ..product.clone() });
    let pieces = narrow.map_or_else(|| staging(product), |narrow| Some(narrow.staging()));
    let Some(staging) = pieces.filter(|_| device.allows(Tier::Matrix)) else { return Vec::new() };
    let is_padded = matches!(product.operands, Operands::Windows(window) if window.padding > 0);
    let kernel = |variant: Variant| {
        let dispatch = raw.into_iter().fold(kernel(variant, &staging), Dispatch::part);
        let dispatch = dispatch.flag("ALIGNED", narrow.is_none() && variant.is_aligned(product)).flag("PADDED", is_padded);
        let dispatch = narrow.iter().fold(dispatch, |dispatch, narrow| narrow.parts(dispatch, product.types[0]));
        finish(product, dispatch, variant.tile).part(wgsl!("gemm/slices.wgsl"))
    };
    variants_of(product, narrow.is_some()).into_iter().map(kernel).collect()
}

/// A convolution of fewer than eight channels, a network's first: what a row of its window's taps covers lies in one piece in the
/// image, and each piece is filled up to whole chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Narrow {
    rows: usize,
    /// Elements of a piece.
    run: usize,
    /// Elements of a chunk.
    chunk: usize,
}

impl Narrow {
    pub(crate) fn of(product: &Product, chunk: usize) -> Option<Self> {
        let Operands::Windows(window) = product.operands else { return None };
        let is_narrow = window.channels < 8 && window.channels == window.group_channels && window.dilation == 1;
        is_narrow.then_some(Self { rows: window.kernel_height, run: window.kernel_width * window.channels, chunk })
    }

    fn chunks(self) -> usize {
        self.run.div_ceil(self.chunk)
    }

    /// Terms of a sum, those that fill up included.
    pub(crate) fn k(self) -> usize {
        self.rows * self.chunks() * self.chunk
    }

    fn staging(self) -> [Staging; 2] {
        Self::LOADS.map(|load| Staging { load, across: false })
    }

    /// The pieces that load both operands.
    pub(crate) const LOADS: [Source; 2] = [wgsl!("gemm/x_narrow_chunks.wgsl"), wgsl!("gemm/w_narrow_chunks.wgsl")];

    /// Adds what the loading pieces need for elements of this type.
    pub(crate) fn parts(self, dispatch: Dispatch, element: DType) -> Dispatch {
        let per_word = 4 / element.size();
        let words = if self.chunk / per_word == 4 { wgsl!("gemm/narrow_quads.wgsl") } else { wgsl!("gemm/narrow_pairs.wgsl") };
        let dispatch = dispatch.constant("RUN", self.run).constant("RUN_CHUNKS", self.chunks()).constant("PER_WORD", per_word);
        dispatch.part(words).part(wgsl!("gemm/narrow.wgsl"))
    }
}

/// How both operands are staged, if they can be.
fn staging(product: &Product) -> Option<[Staging; 2]> {
    let eight = |extent: usize| extent.is_multiple_of(8);
    let along = |load, extent| eight(extent).then_some(Staging { load, across: false });
    let across = |load, extent| eight(extent).then_some(Staging { load, across: true });
    let x_columns = || across(wgsl!("gemm/x_columns_chunks.wgsl"), product.m);
    let w_rows = || along(wgsl!("gemm/w_rows_chunks.wgsl"), product.k);
    let (x, w) = match product.operands {
        Operands::Matrices(x, w) => (
            if x == Layout::Rows { along(wgsl!("gemm/x_rows_chunks.wgsl"), product.k) } else { x_columns() },
            if w == Layout::Rows { w_rows() } else { across(wgsl!("gemm/w_columns_chunks.wgsl"), product.n) },
        ),
        Operands::Windows(window) => (along(wgsl!("gemm/x_windows_chunks.wgsl"), window.group_channels), w_rows()),
        Operands::Spread(window) => {
            (along(wgsl!("gemm/x_spread_chunks.wgsl"), window.channels), across(wgsl!("gemm/w_taps_chunks.wgsl"), product.n))
        }
        Operands::Unfolded(window) => (x_columns(), across(wgsl!("gemm/w_windows_chunks.wgsl"), window.channels)),
    };
    Some([x?, w?])
}

fn kernel(variant: Variant, [x, w]: &[Staging; 2]) -> Dispatch {
    let mut dispatch = Dispatch::new(wgsl!("gemm/matrix.wgsl"), 2).tier(Tier::Matrix).constant("LANES", variant.lanes());
    dispatch.f16 = true;
    dispatch = dispatch.constant("TILE_M", variant.tile.m).constant("TILE_N", variant.tile.n).constant("SLICE_K", variant.slice);
    dispatch = dispatch.constant("CHUNK", 8);
    dispatch = dispatch.constant("SUB_M", variant.sub.m).constant("SUB_N", variant.sub.n);
    for (operand, staging, extent) in [("X", x, variant.tile.m), ("W", w, variant.tile.n)] {
        let (staged, chunks) = if staging.across { (variant.slice, extent / 8) } else { (extent, variant.slice / 8) };
        let rows = if staging.across { 1 } else { staged * chunks / variant.lanes() };
        dispatch = dispatch
            .flag(&format!("{operand}_ACROSS"), staging.across)
            .constant(&format!("STAGED_{operand}"), staged)
            .constant(&format!("CHUNKS_{operand}"), chunks)
            .constant(&format!("ROWS_{operand}"), rows)
            .part(staging.load);
    }
    dispatch
}
