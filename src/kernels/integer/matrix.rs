//! The kernels on cooperative matrices of bytes: which products of codes they take, and on which tile.
//!
//! # Tried and left
//!
//! On an H100 (driver 580.159, 2026-11-26), codes, in TOP/s for 4096³, in a harness that is not kept, of kernels without an epilogue ([`LARGE`]
//! with its own has 457: `qdetr bench kernels --product 4096x4096x4096 --precision f16`):
//!
//! | what | 4096³ |
//! | --- | --- |
//! | 128 × 128 tile, 8 subgroups of 64 × 32, slices of 64 codes | 332 |
//! | the same, slices of 128, steps of the slice written out; as a loop | 449; 469 |
//! | the same as a loop, matrices and the chunks under way in arrays; with subgroups of 64 × 64 | 330; 58 |
//! | 128 × 128 tile, 4 subgroups of 64 × 64, slices of 64; of 128 | 476; 462 |
//! | 256 × 128 or 128 × 256 tile, subgroups of 64 × 64, slices of 64 | 486 |
//! | two slices in workgroup memory, one barrier each | 363 to 400 |
//! | staged rows without padding; padded by 32 bytes in place of 16 | 200; 271 |
//! | workgroup memory as f32 or two of them in place of four | 330 |
//!
//! The last few percent of subgroups of 64 × 64 are left, because half as many tiles suit fewer layers.
//!
//! In DETR-R50 4-4-8, batch 8, µs of a layer (`qdetr bench model --preset detr-resnet50 --precision f16 --bits 4-4-8 --batch 8 --profile --top 400`,
//! with each variant in turn for all layers):
//!
//! | what | 3×3 of 256 channels, 50 × 67 | 64 → 256, 200 × 267, residual | 128 → 512, 100 × 134, residual | 256 → 1024, 50 × 67, residual |
//! | --- | --- | --- | --- | --- |
//! | [`LARGE`] | 105 | 317 | 199 | 115 |
//! | the same, slices of 64 | 124 | 356 | 204 | 125 |
//! | [`NARROW`] | 115 | 285 | 160 | 105 |
//! | [`SMALL`]; [`TINY`] | 122; 133 | 318; 281 | 276; 157 | 159; 104 |
//! | [`TINY`], residuals of both strips read before the first is written | | 272 | 156 | 101 |
//! | the same, a subgroup's own barriers in place of the workgroup's | | 275 | 151 | 102 |
//! | residuals read before the sums are computed | | 328 | 193 | 122 |
//! | the same, and what channels have in common read behind the sums | | 297 | 180 | 116 |
//! | strips as wide as the tile, for stores of whole lines | 105 | 281 | 160 | 105 |
//! | results written over the residuals, with any of these | | 318 | 193 | 123 |
//! | before: strips of 32 × 32 sums, which leave room for fewer workgroups, and every chunk's place tested; the best tile | 125 | 307 | 187 | 113 |
//! | then also 128 × 64, 8 subgroups of 32 × 32, slices of 128 | 149 | 415 | 209 | 130 |
//!
//! Then: tiles, one below the other, that a workgroup computes, of which the next one's operands are on their way while results are stored
//! ([`TINY`], batch 8; and 4; 2; 1):
//!
//! | µs of a layer | 1 | 2 | 3 | 4 | 8 |
//! | --- | --- | --- | --- | --- | --- |
//! | 64 → 256, 200 × 267, residual | 275 | 237 | 236 | 232 | 234 |
//! | | 141; 74; 43 | 126; 69; 42 | 125; 70; 43 | 125; 70; 43 | |
//! | 128 → 512, 100 × 134, residual | 151 | 140 | 140 | 141 | 150 |
//! | | 80; 46; 28 | 77; 46; 28 | 78; 48; 31 | 80; 46; 27 | |
//! | 256 → 1024, 50 × 67, residual | 102 | 97 | 99 | 101 | 106 |
//! | | 56; 33; 19 | 58; 34; 19 | 60; 38; 22 | 57; 33; 22 | |
//! | 512 → 2048, 25 × 34, residual | 77 | 79 | 84 | 80 | 85 |
//! | 64 → 256, 200 × 267 ([`NARROW`] 137) | 155 | 135 | | 125 | |
//!
//! Other tiles have no registers to spare: of [`NARROW`], two tiles take 267, 161 and 110 µs of the first three, one takes 273, 155 and 105; of a
//! 3 × 3 convolution of 64 channels 144 and 122.
//!
//! **A bottleneck's last two convolutions in one kernel**, codes between them in workgroup memory, so that some workgroups compute while others
//! wait for memory: 365 µs for 397 in `layer1`, 267 for 256 in `layer2` (batch 8), and 67 for 72, 43 for 54 (batch 1), before the above. Too
//! little for an op and a rewrite, which are not kept.
//!
//! Results over the residuals would take 573 MB in place of 737, and 10.1 ms in place of 9.7.
//!
//! **Codes as residuals, and codes that are made while others are loaded** (preset `compact`; 2026-11-27, the same command): what a last convolution
//! of `layer1` reads and writes is 246 MB in place of 574, and takes 181 µs in place of 232, because its instructions count now: of the whole
//! model 8.06 ms became 7.74 when products were forbidden to be contracted in the SPIR-V, in place of a barrier behind each. Codes as floats by the
//! instruction for that took 122 µs in place of 139 on [`NARROW`] (256 → 64 channels, 200 × 267), 97 in place of 92 on [`LARGE`] (512 → 128, 100 × 134),
//! and 7.83 ms in place of 7.74 in all.
//!
//! The first convolution (7 × 7 of 3 channels, 400 × 533): [`STEM`] 315; [`NARROW`] 438, 460 with a test of every element; [`SMALL`] with slices of
//! 32 359; 256 × 64, 8 subgroups of 64 × 32, slices of 64 584.

use crate::gpu::{Capabilities, Dispatch};
use crate::kernels::gemm::matrix::Narrow;
use crate::kernels::gemm::{Operands, Product, Tile};
use crate::wgsl;

/// Codes of a chunk, which is what an invocation loads at once.
const CHUNK: usize = 16;

/// A tile, the rows that a subgroup computes (32 columns each), its subgroups, the codes of a slice, and the tiles, one below the other, that a
/// workgroup computes.
#[derive(Clone, Copy, PartialEq)]
struct Variant {
    tile: Tile,
    rows: usize,
    subgroups: usize,
    slice: usize,
    walk: usize,
}

const LARGE: Variant = Variant { tile: Tile { m: 128, n: 128 }, rows: 64, subgroups: 8, slice: 128, walk: 1 };
/// For results that are narrow, and for sums so short that all is reading and writing.
const NARROW: Variant = Variant { tile: Tile { m: 128, n: 64 }, rows: 64, subgroups: 4, slice: 64, walk: 1 };
/// For convolutions of few channels, of which a slice is one row of a window: its chunks take many instructions to load.
const STEM: Variant = Variant { slice: 32, ..NARROW };
const SMALL: Variant = Variant { tile: Tile { m: 64, n: 64 }, rows: 32, subgroups: 4, slice: 128, walk: 1 };
/// For short sums whose results are few, or are added to something: what is read and written counts, and many small workgroups hide it best.
const TINY: Variant = Variant { slice: 64, ..SMALL };
/// Two and four subgroups that share every slice: for results that are few.
const PAIRS: Variant = Variant { tile: Tile { m: 32, n: 64 }, ..SMALL };
const FOURS: Variant = Variant { tile: Tile { m: 32, n: 32 }, slice: 256, ..SMALL };

const ALL: [Variant; 8] = [LARGE, NARROW, SMALL, TINY, TINY.walking(2), TINY.walking(4), PAIRS, FOURS];

/// Workgroups of [`LARGE`] that keep a large GPU busy: most of some 130 processors. Fewer are slower than twice as many small ones.
const BUSY: usize = 100;
/// The same of the others, which are half as large or less.
const BUSY_SMALL: usize = 2 * BUSY;

/// Sums that are so short that reading and writing take longer: more workgroups at a time hide it better.
const SHORT: usize = 256;
/// The same where residuals are read too.
const SHORT_ADDED: usize = 512;
/// Workgroups of [`NARROW`] of which the last ones to finish do not matter.
const MANY: usize = 1000;
/// Workgroups of [`TINY`] that a large GPU takes several times over, so that each may compute several tiles: loading their operands then takes
/// the time in which results are stored.
const PLENTY: usize = 3000;

impl Variant {
    fn lanes(self) -> usize {
        32 * self.subgroups
    }

    const fn walking(self, walk: usize) -> Self {
        Self { walk, ..self }
    }

    /// As many tiles for each workgroup as leave plenty of those, of short sums.
    fn walking_far(self, product: &Product) -> Self {
        let is_far = |&walk: &usize| product.groups == 1 && product.k <= SHORT && product.tiles(self.tile) >= walk * PLENTY;
        self.walking([4, 2].into_iter().find(is_far).unwrap_or(1))
    }

    /// Workgroups.
    fn groups(self, product: &Product) -> usize {
        product.tiles(Tile { m: self.walk * self.tile.m, ..self.tile })
    }

    /// Subgroups that have the same results.
    fn shares(self) -> usize {
        self.subgroups / (self.tile.m / self.rows * self.tile.n / 32)
    }
}

/// All variants for a product, best first.
fn variants_of(product: &Product, recodes: bool) -> Vec<Variant> {
    let busy = |v: &Variant| product.tiles(v.tile) >= if *v == LARGE { BUSY } else { BUSY_SMALL };
    let is_added = product.epilogue.residual && product.k <= SHORT_ADDED;
    let is_short = is_added || product.k <= SHORT || product.n <= NARROW.tile.n;
    // Codes that are made while they are loaded should be made once.
    let is_wide = recodes && product.n > NARROW.tile.n;
    let best = if (!is_short || is_wide) && busy(&LARGE) {
        LARGE
    } else if product.k <= TINY.slice && busy(&TINY) {
        TINY.walking_far(product)
    } else if is_short && !is_added && product.tiles(NARROW.tile) >= MANY {
        NARROW
    } else if is_short && busy(&TINY) {
        TINY.walking_far(product)
    } else {
        let mut small = [SMALL, PAIRS, FOURS].into_iter().filter(|v| product.k >= v.slice);
        small.clone().find(busy).or(small.next_back()).unwrap_or(SMALL)
    };
    let fits = |v: &Variant| *v != best && (v.walk == 1 || product.groups == 1);
    [best].into_iter().chain(ALL.into_iter().filter(fits)).collect()
}

/// All kernels for a product of codes on this device, best first; none where it has no such matrices, or the operands cannot be loaded
/// sixteen codes at a time. `recodes`: whether codes are made while they are loaded. `finish` adds the parameters, and what happens to the sums, of the product as it is computed.
pub(super) fn kernels(
    product: &Product,
    recodes: bool,
    device: &Capabilities,
    finish: impl Fn(Dispatch, &Product, Tile) -> Dispatch,
) -> Vec<Dispatch> {
    let narrow = Narrow::of(product, CHUNK);
    let product = &narrow.map_or_else(|| product.clone(), |narrow| Product { k: narrow.k(), ..product.clone() });
    let rows = wgsl!("gemm/w_rows_chunks.wgsl");
    let (along_k, loads) = match product.operands {
        _ if narrow.is_some() => (product.k, Narrow::LOADS),
        Operands::Windows(window) => (window.group_channels, [wgsl!("gemm/x_windows_chunks.wgsl"), rows]),
        _ => (product.k, [wgsl!("gemm/x_rows_chunks.wgsl"), rows]),
    };
    if !device.allows_bytes() || !along_k.is_multiple_of(CHUNK) || !product.n.is_multiple_of(4) {
        return Vec::new();
    }
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
            .constant("WALK", variant.walk)
            // A slice is whole and, of a window, of one tap.
            .flag("ALIGNED", narrow.is_none() && along_k.is_multiple_of(variant.slice))
            .flag("PADDED", matches!(product.operands, Operands::Windows(window) if window.padding > 0));
        let dispatch = loads.into_iter().fold(dispatch, Dispatch::part);
        let dispatch = narrow.iter().fold(dispatch, |dispatch, narrow| narrow.parts(dispatch, product.types[0]));
        finish(dispatch, product, variant.tile).over_groups(variant.groups(product))
    };
    let variants = if narrow.is_some() { vec![STEM, NARROW] } else { variants_of(product, recodes) };
    variants.into_iter().map(kernel).collect()
}
