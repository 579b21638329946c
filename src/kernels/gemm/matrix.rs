//! The kernels for cooperative matrices: which products they take, on which tile, and how the operands are staged.
//!
//! # Tried and left
//!
//! On NVIDIA cards (H100 and H200, driver 580.159, 2026-11-26), f16, in TFLOP/s for 4096³ and for a 3×3 convolution 256 → 256 on 8 × 50 × 67:
//!
//! | what | 4096³ | 3×3 |
//! | --- | --- | --- |
//! | `matrix.wgsl`: 64 × 64 tile, subgroups of 32 × 32 | 76 to 80 | 89 |
//! | 128 × 128 tile, 4 subgroups of 64 × 64: too few subgroups to hide the waiting | 101 | 101 |
//! | the same, chunks loaded as a struct of two `vec4<f16>` instead of four words that are unpacked | 74 | 83 |
//! | the same, loops over chunks written out | 103 | 101 |
//! | the same, no prefetch into registers | 79 | |
//! | `matrix_large.wgsl`: 128 × 128 tile, 8 subgroups of 64 × 32 | 148 | 118 |
//! | the same with slices of 64 k and strips of 16 × 16 results | 161 | 150 |
//!
//! Workgroup memory as 16-byte vectors, which NVIDIA's own benchmark uses, is not to be had: naga 30 wants the element type of the
//! matrix. Residuals that are read one by one between stores cost a 1×1 convolution 256 → 1024 half of its time (388 against
//! 232 µs), because a compiler cannot move a load before a store that may be to the same place. Codes that are converted one by
//! one (91 TOP/s on the convolution) are slower than two at a time behind an exponent (106, and 135 with slices of 64).

use super::{Layout, Operands, Product, SLICE_K, Tile};
use crate::gpu::{Capabilities, Dispatch, Tier, shader::Source};
use crate::tensor::DType;
use crate::wgsl;

/// Workgroups of [`LARGE`] that keep a large GPU busy: one for each of some 130 processors.
const BUSY: usize = 130;
/// The same of the others, which are half as large.
const BUSY_SMALL: usize = 2 * BUSY;

/// A kernel: its file, its tile, its subgroups, and the k of a slice, which it multiplies between two barriers.
#[derive(Clone, Copy, PartialEq)]
struct Variant {
    source: Source,
    tile: Tile,
    subgroups: usize,
    slice: usize,
}

/// Sums that are long enough for [`DEEP`].
const LONG: usize = 512;

/// Eight subgroups of 64 × 32 results.
const LARGE: Variant = Variant { source: wgsl!("gemm/matrix_large.wgsl"), tile: Tile { m: 128, n: 128 }, subgroups: 8, slice: 32 };
const DEEP: Variant = Variant { slice: SLICE_K, ..LARGE };
/// Four subgroups of 32 × 32 results.
const SMALL: Variant = Variant { source: wgsl!("gemm/matrix.wgsl"), tile: Tile { m: 64, n: 64 }, subgroups: 4, slice: 32 };
/// Two such, of two subgroups each that share every slice, and one of four: for results that are few.
const PAIRS: Variant = Variant { tile: Tile { m: 32, n: 64 }, slice: 64, ..SMALL };
const FOURS: Variant = Variant { tile: Tile { m: 32, n: 32 }, slice: 128, ..SMALL };

impl Variant {
    fn lanes(self) -> usize {
        32 * self.subgroups
    }

    /// Whether no slice reaches from one part of split sums into the next.
    fn keeps_splits(self, product: &Product) -> bool {
        product.splits == 1 || product.split_k().is_multiple_of(self.slice)
    }

    /// Columns of the strips in which [`LARGE`] stores results: slices of both operands leave so much room.
    fn strip(self) -> usize {
        if self.slice > 32 { 16 } else { 32 }
    }
}

/// All variants for a product, best first.
fn variants_of(product: &Product) -> Vec<Variant> {
    let fills = product.m > 64 && product.n > 64 && product.tiles(LARGE.tile) >= BUSY;
    let mut order = match (fills, product.split_k() >= LONG) {
        (true, true) => vec![DEEP, LARGE],
        (true, false) => vec![LARGE, DEEP],
        (false, _) => Vec::new(),
    };
    let suits = |v: &Variant| v.keeps_splits(product) && product.k >= v.slice;
    let small = [FOURS, PAIRS, SMALL].into_iter().filter(suits);
    order.extend(small.clone().rev().find(|v| product.tiles(v.tile) >= BUSY_SMALL).or(small.clone().next()));
    let rest = [SMALL, PAIRS, FOURS, LARGE, DEEP].into_iter().filter(|v| v.keeps_splits(product));
    let rest: Vec<_> = rest.filter(|v| !order.contains(v)).collect();
    [order, rest].concat()
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
    let words = if product.types[0] == DType::F16 { wgsl!("gemm/narrow_halves.wgsl") } else { wgsl!("gemm/narrow_codes.wgsl") };
    let kernel = |variant: Variant| {
        let dispatch = raw.into_iter().fold(kernel(variant, &staging), Dispatch::part);
        let dispatch = narrow.iter().fold(dispatch, |dispatch, narrow| narrow.parts(dispatch, words));
        finish(product, dispatch, variant.tile).part(wgsl!("gemm/slices.wgsl"))
    };
    variants_of(product).into_iter().map(kernel).collect()
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

    /// Adds what the loading pieces need; `words` says what a word holds, and what a chunk is.
    pub(crate) fn parts(self, dispatch: Dispatch, words: Source) -> Dispatch {
        dispatch.constant("RUN", self.run).constant("RUN_CHUNKS", self.chunks()).part(words).part(wgsl!("gemm/narrow.wgsl"))
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
    let mut dispatch = Dispatch::new(variant.source, 2).tier(Tier::Matrix).constant("LANES", variant.lanes());
    dispatch.f16 = true;
    dispatch = dispatch.constant("TILE_M", variant.tile.m).constant("TILE_N", variant.tile.n).constant("SLICE_K", variant.slice);
    if variant.source == LARGE.source {
        dispatch = dispatch.constant("STRIP_N", variant.strip());
    }
    dispatch = dispatch.constant("CHUNK", 8);
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
