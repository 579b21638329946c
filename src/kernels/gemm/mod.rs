//! What linear layers, convolutions and their gradients share: the GEMM kernels and the choice among them.
//!
//! All are `y[m, n] = epilogue(Σ_k x[m, k] · w[n, k])`. They differ in how the operands are found in memory: rows or columns of
//! a matrix, the window of an output pixel (implicit GEMM, nothing is unfolded in memory), the output pixels that an image
//! pixel contributed to. Each way is a WGSL piece that the kernel is composed with.

pub(crate) mod matrix;

use super::epilogue::Epilogue;
use crate::gpu::{Capabilities, Dispatch, Words, shader::Source};
use crate::tensor::{DType, TensorType};
use crate::wgsl;

/// A product: its extents per group and where its operands lie.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    /// Rows of the result.
    pub(crate) m: usize,
    /// Columns of the result, in each group.
    pub(crate) n: usize,
    /// Terms of each sum.
    pub(crate) k: usize,
    /// Independent products side by side: the groups of a convolution, or the phases of [`Operands::Spread`].
    pub(crate) groups: usize,
    /// Parts that the sums are split into, each with a result of its own.
    pub(crate) splits: usize,
    /// Element types of x, w and y.
    pub(crate) types: [DType; 3],
    /// Where the operands lie.
    pub(crate) operands: Operands,
    /// What happens to each sum.
    pub(crate) epilogue: Epilogue,
}

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[m, k]` or `[n, k]`: what is summed over is contiguous.
    Rows,
    /// `[k, m]` or `[k, n]`.
    Columns,
}

/// How the operands are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operands {
    /// Two matrices.
    Matrices(Layout, Layout),
    /// Windows of an image, and weights in rows: a convolution.
    Windows(Windows),
    /// Output pixels that an image pixel contributed to, and weights tap by tap: a convolution's `d_x`.
    Spread(Windows),
    /// Columns of `d_y`, and windows of the image: a convolution's `d_w`.
    Unfolded(Windows),
}

/// The geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Windows {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Of the tensor that is read pixel by pixel: the image, but `d_y` for [`Operands::Spread`].
    pub(crate) channels: usize,
    pub(crate) group_channels: usize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) kernel_height: usize,
    pub(crate) kernel_width: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) dilation: usize,
}

/// A workgroup's share of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tile {
    pub(crate) m: usize,
    pub(crate) n: usize,
}

/// Tiles of the portable kernel, larger first, with the rows and columns that one invocation computes.
pub(crate) const TILES: [(Tile, usize); 2] = [(Tile { m: 64, n: 64 }, 8), (Tile { m: 32, n: 32 }, 4)];
pub(crate) const TILE_K: usize = 16;

/// The longest slice of any kernel; parts of split sums are multiples of it.
const SLICE_K: usize = 64;

/// Workgroups that keep a large GPU busy: two for each of some 130 processors.
pub(crate) const BUSY: usize = 260;

impl Product {
    /// All kernels for this product, best first.
    pub(crate) fn kernels(&self, device: &Capabilities) -> Vec<Dispatch> {
        let mut kernels = matrix::kernels(self, device);
        // The larger tile does more arithmetic for each load, but only if there are enough of them for all processors.
        let large_first = self.tiles(TILES[0].0) >= BUSY;
        let order = if large_first { [0, 1] } else { [1, 0] };
        kernels.extend(order.map(|i| self.tiled(TILES[i])));
        kernels
    }

    pub(crate) fn tiles(&self, tile: Tile) -> usize {
        self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n) * self.groups * self.splits
    }

    /// The portable kernel.
    fn tiled(&self, (tile, each): (Tile, usize)) -> Dispatch {
        let dispatch = Dispatch::new(wgsl!("gemm/tiled.wgsl"), 2)
            .constant("TILE_M", tile.m)
            .constant("TILE_N", tile.n)
            .constant("TILE_K", TILE_K)
            .constant("ROWS", each)
            .constant("COLUMNS", each)
            .element("element_x", self.types[0])
            .element("element_w", self.types[1]);
        let (x, w) = self.pieces();
        self.surround(dispatch.part(x).part(w), tile)
    }

    /// The pieces of parameters and results, the parameters themselves and the grid.
    fn surround(&self, dispatch: Dispatch, tile: Tile) -> Dispatch {
        let params = match self.operands {
            Operands::Matrices(..) => wgsl!("gemm/params_rows.wgsl"),
            Operands::Windows(_) => wgsl!("gemm/params_windows.wgsl"),
            Operands::Spread(_) => wgsl!("gemm/params_spread.wgsl"),
            Operands::Unfolded(_) => wgsl!("gemm/params_unfolded.wgsl"),
        };
        let y = if self.n.is_multiple_of(4) { wgsl!("gemm/y_rows.wgsl") } else { wgsl!("gemm/y_rows_scalar.wgsl") };
        let dispatch = self.epilogue.constants(dispatch.element("element_y", self.types[2])).part(params).part(y);
        let [scale, shift, residual] = self.epilogue.bindings(2);
        dispatch.params(self.params(tile)).bind([0, 1, scale, shift, residual]).over_groups(self.tiles(tile))
    }

    /// The pieces that load the operands of the portable kernel, four elements at a time where they are aligned.
    pub(crate) fn pieces(&self) -> (Source, Source) {
        let four = |extent: usize| extent.is_multiple_of(4);
        match self.operands {
            Operands::Matrices(x, w) => {
                let x = match (x, four(self.k), four(self.m)) {
                    (Layout::Rows, true, _) => wgsl!("gemm/x_rows.wgsl"),
                    (Layout::Rows, false, _) => wgsl!("gemm/x_rows_scalar.wgsl"),
                    (Layout::Columns, _, true) => wgsl!("gemm/x_columns.wgsl"),
                    (Layout::Columns, _, false) => wgsl!("gemm/x_columns_scalar.wgsl"),
                };
                (x, if w == Layout::Rows { self.w_rows() } else { self.w_columns() })
            }
            Operands::Windows(w) if four(w.group_channels) => (wgsl!("gemm/x_windows.wgsl"), self.w_rows()),
            Operands::Windows(_) => (wgsl!("gemm/x_windows_scalar.wgsl"), self.w_rows()),
            Operands::Spread(w) => (
                if four(w.channels) { wgsl!("gemm/x_spread.wgsl") } else { wgsl!("gemm/x_spread_scalar.wgsl") },
                if four(self.n) { wgsl!("gemm/w_taps.wgsl") } else { wgsl!("gemm/w_taps_scalar.wgsl") },
            ),
            Operands::Unfolded(w) => (
                if four(self.m) { wgsl!("gemm/x_columns.wgsl") } else { wgsl!("gemm/x_columns_scalar.wgsl") },
                if four(w.channels) { wgsl!("gemm/w_windows.wgsl") } else { wgsl!("gemm/w_windows_scalar.wgsl") },
            ),
        }
    }

    fn w_rows(&self) -> Source {
        if self.k.is_multiple_of(4) { wgsl!("gemm/w_rows.wgsl") } else { wgsl!("gemm/w_rows_scalar.wgsl") }
    }

    fn w_columns(&self) -> Source {
        if self.n.is_multiple_of(4) { wgsl!("gemm/w_columns.wgsl") } else { wgsl!("gemm/w_columns_scalar.wgsl") }
    }

    pub(crate) fn params(&self, tile: Tile) -> Words {
        let tiles = [self.m.div_ceil(tile.m), self.n.div_ceil(tile.n)];
        let common = [self.m, self.n, self.k, tiles[0], tiles[1], self.groups, self.split_k(), self.splits];
        match self.operands {
            Operands::Matrices(..) => Words::of(common),
            Operands::Windows(w) => {
                // The shader divides k by multiplying with a rounded reciprocal: exact below this bound.
                assert!(self.k < 1 << 21, "convolution: windows of {} elements are too large", self.k);
                let rest = [w.height, w.width, w.channels, w.group_channels, w.out_height, w.out_width, w.kernel_width];
                let words = [&common[..], &rest, &[w.stride, w.padding, w.dilation]].concat();
                Words::of(words).float(1.0 / w.group_channels as f32).float(1.0 / w.kernel_width as f32)
            }
            Operands::Spread(w) => {
                let rest = [w.height, w.width, w.channels, w.out_height, w.out_width, w.kernel_height, w.kernel_width];
                let phase = [w.height.div_ceil(w.stride), w.width.div_ceil(w.stride)];
                Words::of([&common[..], &rest, &[w.stride, w.padding, w.dilation], &phase].concat())
            }
            Operands::Unfolded(w) => {
                let rest = [w.height, w.width, w.channels, w.out_height, w.out_width, w.kernel_width];
                Words::of([&common[..], &rest, &[w.stride, w.padding, w.dilation]].concat())
            }
        }
    }

    /// Terms of each part of the sums: whole slices.
    pub(crate) fn split_k(&self) -> usize {
        self.k.div_ceil(self.splits).next_multiple_of(SLICE_K)
    }

    /// Multiply-adds counted as two.
    pub(crate) fn operations(&self) -> u64 {
        2 * (self.m * self.n * self.groups) as u64 * self.k as u64
    }
}

/// Into how many parts to split sums of `k` terms so that an `m` × `n` result keeps a large GPU busy: long sums over few
/// results, as weight gradients are. Each part has at least 512 terms.
pub(crate) fn splits(m: usize, n: usize, k: usize) -> usize {
    let tiles = m.div_ceil(TILES[0].0.m) * n.div_ceil(TILES[0].0.n);
    let wanted = (2 * BUSY).div_ceil(tiles).min(k / 512).max(1);
    // Parts are whole slices, so the last ones may be left without terms.
    let part = k.div_ceil(wanted).next_multiple_of(SLICE_K);
    k.div_ceil(part)
}

/// Types of a product's operands, for the ops' constructors.
pub(crate) fn types(inputs: &[TensorType], outputs: &[TensorType]) -> [DType; 3] {
    [inputs[0].dtype, inputs[1].dtype, outputs[0].dtype]
}
