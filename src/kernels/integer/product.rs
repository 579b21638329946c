//! The kernels of matrix products on codes and the choice among them.
//!
//! All compute `store_y(m, n, Σ_k x[m, k] · w[n, k])` on tiles, as `gemm` does for floats. Portable: codes unpacked to f32.
//! Packed: four multiply-adds of bytes an instruction. Matrix: cooperative matrices of bytes where a device has them ([`matrix`]),
//! otherwise of halves. How the operands are found is a piece: rows of a matrix or windows of an
//! image, read sixteen codes at a time, four, or one, as they are aligned.

use super::{Arithmetic, matrix};
use crate::gpu::shader::Source;
use crate::gpu::{Capabilities, Dispatch, Tier};
use crate::kernels::gemm::{self, BUSY, Operands, Product, TILE_K, TILES, Tile};
use crate::kernels::quantize::Levels;
use crate::wgsl;

/// A tile of the packed kernel, of which an invocation computes 4 or 8 `rows` × 4 results.
#[derive(Clone, Copy, Debug)]
struct PackedTile {
    tile: Tile,
    rows: usize,
}

impl PackedTile {
    /// Steps of a slice that are written out: all, or one in a loop.
    fn steps(self) -> usize {
        if self.rows == 8 { PACKED_SLICE } else { 1 }
    }
}

/// Larger first.
///
/// H100, 2026-11-26, `qdetr bench kernels --product 4096x4096x4096 --precision f16 --tier packed`: the first gives 101 TOP/s
/// (of the steps eight written out, 99.9; 4 × 4 results an invocation on tiles of 64 × 64, 99, and in a loop 92), where products of bytes
/// without memory reach 110.
/// Tried and left: slices of 8 words, 92, of 32, 88; two slices in workgroup memory, one barrier each, 2 % slower; 8 × 8 results an
/// invocation, 95 to 97; 8 × 4 on tiles of 128 × 128 or 256 × 64, 94; subgroups that lie 8 × 4 in place of 16 × 2, 99.8; every sum a name of
/// its own in place of every four, 98.
const PACKED: [PackedTile; 2] = [PackedTile { tile: Tile { m: 128, n: 64 }, rows: 8 }, PackedTile { tile: Tile { m: 32, n: 32 }, rows: 4 }];
/// Words of a slice.
const PACKED_SLICE: usize = 16;

// Each lane loads at most one block of four rows by four words.
const _: () = {
    let mut i = 0;
    while i < PACKED.len() {
        let PackedTile { tile, rows } = PACKED[i];
        assert!((tile.m + tile.n) / 4 * (PACKED_SLICE / 4) <= tile.m * tile.n / (4 * rows));
        i += 1;
    }
};

/// A product of codes: geometry as for floats, and its arithmetic.
pub(super) struct IntegerProduct {
    pub(super) geometry: Product,
    pub(super) arithmetic: Arithmetic,
    /// Levels of the codes that are made of x while it is loaded, and the index of the state of x as it is.
    pub(super) recodes: Option<(Levels, usize)>,
}

impl IntegerProduct {
    /// All kernels, best first.
    pub(super) fn kernels(&self, device: &Capabilities) -> Vec<Dispatch> {
        let mut kernels = matrix::kernels(&self.geometry, self.recodes.is_some(), device, |dispatch, geometry, tile| {
            self.with_outside(self.place(dispatch, geometry, tile))
        });
        kernels.extend(self.halves(device));
        if device.allows(Tier::Packed) {
            let best = self.best_packed();
            kernels.push(self.packed(best));
            kernels.extend(PACKED.into_iter().filter(|t| t.tile != best.tile && self.fills(t.tile)).map(|t| self.packed(t)));
        }
        let large_first = self.geometry.tiles(TILES[0].0) >= BUSY;
        let mut portable = TILES;
        if !large_first {
            portable.reverse();
        }
        kernels.extend(portable.into_iter().filter(|t| t.0 == portable[0].0 || self.fills(t.0)).map(|t| self.portable(t)));
        kernels
    }

    /// Whether a tile is not mostly empty.
    fn fills(&self, tile: Tile) -> bool {
        2 * self.geometry.m > tile.m && 2 * self.geometry.n > tile.n
    }

    /// The largest tile of which there are enough for all processors and that is not mostly empty.
    fn best_packed(&self) -> PackedTile {
        let suits = |t: &PackedTile| self.geometry.tiles(t.tile) >= BUSY && self.fills(t.tile);
        PACKED.into_iter().find(suits).unwrap_or(PACKED[PACKED.len() - 1])
    }

    /// The kernels for cooperative matrices of halves, which have no room to add up exact parts.
    fn halves(&self, device: &Capabilities) -> Vec<Dispatch> {
        let Product { n, k, .. } = self.geometry;
        if k > self.arithmetic.bits.exact_terms() || !n.is_multiple_of(4) {
            return Vec::new();
        }
        let codes = [wgsl!("integer/raw_x_codes.wgsl"), wgsl!("integer/raw_w_codes.wgsl")];
        gemm::matrix::variants(&self.geometry, device, codes, |geometry, dispatch, tile| {
            let dispatch = self.place(dispatch, geometry, tile);
            self.with_outside(dispatch.part(wgsl!("integer/matrix_y.wgsl")))
        })
    }

    /// With the piece that says what a window finds outside of its image.
    fn with_outside(&self, dispatch: Dispatch) -> Dispatch {
        let windows = matches!(self.geometry.operands, Operands::Windows(_));
        if windows { dispatch.part(wgsl!("integer/outside.wgsl")) } else { dispatch }
    }

    /// With the piece that says what becomes of codes of x on their way from memory.
    fn loading(&self, dispatch: Dispatch) -> Dispatch {
        let Some((levels, _)) = self.recodes else { return dispatch.part(wgsl!("integer/as_loaded.wgsl")) };
        let dispatch = dispatch.constant("X_HALF", 1 << (levels.bits - 1)).constant("X_OFFSET", levels.offset() as usize);
        dispatch.part(wgsl!("integer/recoded.wgsl"))
    }

    fn portable(&self, (tile, each): (Tile, usize)) -> Dispatch {
        let dispatch = Dispatch::new(wgsl!("integer/tiled.wgsl"), 2)
            .constant("TILE_M", tile.m)
            .constant("TILE_N", tile.n)
            .constant("TILE_K", TILE_K)
            .constant("ROWS", each)
            .constant("COLUMNS", each)
            .constant("PART", self.arithmetic.bits.exact_terms());
        let (x, w) = self.words();
        self.place(dispatch, &self.geometry, tile).part(x).part(w)
    }

    fn packed(&self, packed: PackedTile) -> Dispatch {
        let PackedTile { tile, rows } = packed;
        let dispatch = Dispatch::new(wgsl!("integer/packed.wgsl"), 2)
            .tier(Tier::Packed)
            .constant("TILE_M", tile.m)
            .constant("TILE_N", tile.n)
            .constant("SLICE", PACKED_SLICE)
            .constant("LANE_ROWS", rows)
            .constant("STEPS", packed.steps())
            .part(wgsl!("integer/block.wgsl"));
        let dispatch = self.place(dispatch, &self.geometry, tile);
        let quads = match self.geometry.operands {
            Operands::Windows(w) if w.channels.is_multiple_of(16) => wgsl!("integer/x_windows_quads.wgsl"),
            Operands::Matrices(..) if self.geometry.k.is_multiple_of(16) => wgsl!("integer/x_rows_quads.wgsl"),
            _ => {
                let (x, w) = self.words();
                return dispatch.part(x).part(w).part(wgsl!("integer/block_x_words.wgsl")).part(wgsl!("integer/block_w_words.wgsl"));
            }
        };
        dispatch.part(wgsl!("integer/block_rows.wgsl")).part(quads).part(wgsl!("integer/w_rows_quads.wgsl"))
    }

    /// The pieces that load words of four codes.
    fn words(&self) -> (Source, Source) {
        let four = self.geometry.k.is_multiple_of(4);
        let x = match self.geometry.operands {
            Operands::Windows(w) if w.channels.is_multiple_of(4) => wgsl!("integer/x_windows_words.wgsl"),
            Operands::Windows(_) => wgsl!("integer/x_windows_bytes.wgsl"),
            _ if four => wgsl!("integer/x_rows_words.wgsl"),
            _ => wgsl!("integer/x_rows_bytes.wgsl"),
        };
        (x, if four { wgsl!("integer/w_rows_words.wgsl") } else { wgsl!("integer/w_rows_bytes.wgsl") })
    }

    /// The geometry, the parameters, what happens to the sums, and the grid.
    fn place(&self, dispatch: Dispatch, geometry: &Product, tile: Tile) -> Dispatch {
        let Product { n, k, operands, groups, .. } = *geometry;
        let padded = matches!(operands, Operands::Windows(w) if w.padding > 0);
        let dispatch = match operands {
            Operands::Windows(_) => dispatch.part(wgsl!("gemm/params_windows.wgsl")).part(wgsl!("integer/windows.wgsl")),
            _ => dispatch.part(wgsl!("gemm/params_rows.wgsl")),
        };
        let own = (Arithmetic::X_STATE, "AT_STATE");
        let x_states = match self.recodes {
            Some((_, from)) => vec![own, (from, "AT_FROM")],
            None => padded.then_some(own).into_iter().collect(),
        };
        let dispatch = self.loading(self.arithmetic.finish(dispatch, groups, n, k, &x_states));
        let dispatch = match operands {
            Operands::Windows(_) if padded => dispatch.part(wgsl!("integer/padding.wgsl")),
            Operands::Windows(_) => dispatch.part(wgsl!("integer/no_padding.wgsl")),
            _ => dispatch,
        };
        dispatch.params(geometry.params(tile)).over_groups(geometry.tiles(tile))
    }
}

/// `Σ a · b` of codes.
pub(super) fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}
