//! What linear layers and convolutions share: the GEMM kernels and the choice among them.
//!
//! Both are `y[m, n] = epilogue(Σ_k x[m, k] · w[n, k])`. They differ in how row `m` of `x` is found: a row of a matrix, or
//! the window of an output pixel (implicit GEMM, nothing is unfolded in memory).

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
    /// Independent products side by side, 1 but for grouped convolutions.
    pub(crate) groups: usize,
    /// Element types of x, w and y.
    pub(crate) types: [DType; 3],
    /// Further words of the uniform struct, behind m, n, k, tiles and groups.
    pub(crate) geometry: Geometry,
    /// What happens to each sum.
    pub(crate) epilogue: Epilogue,
}

/// How rows of x are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Geometry {
    /// Rows of a matrix.
    Rows,
    /// Windows of an image.
    Windows(Windows),
}

/// The uniform words of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Windows {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) group_channels: usize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) kernel_width: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) dilation: usize,
}

/// A workgroup's share of the result, and an invocation's.
#[derive(Clone, Copy, Debug)]
struct Tile {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
}

/// Largest first.
const TILES: [Tile; 3] =
    [Tile { m: 128, n: 64, rows: 8, columns: 8 }, Tile { m: 64, n: 64, rows: 8, columns: 8 }, Tile { m: 32, n: 32, rows: 4, columns: 4 }];
const TILE_K: usize = 16;

/// Workgroups that keep a large GPU busy: two for each of some 130 processors.
const BUSY: usize = 260;

impl Product {
    /// All kernels for this product, best first.
    pub(crate) fn kernels(&self, _device: &Capabilities) -> Vec<Dispatch> {
        let best = TILES.iter().position(|&t| self.tiles(t) >= BUSY).unwrap_or(TILES.len() - 1);
        let mut order = vec![best];
        order.extend((0..TILES.len()).filter(|&i| i != best));
        order.into_iter().map(|i| self.tiled(TILES[i])).collect()
    }

    fn tiles(&self, tile: Tile) -> usize {
        self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n) * self.groups
    }

    /// The portable kernel on a given tile.
    fn tiled(&self, tile: Tile) -> Dispatch {
        let dispatch = Dispatch::new(wgsl!("gemm/tiled.wgsl"), 2)
            .constant("TILE_M", tile.m)
            .constant("TILE_N", tile.n)
            .constant("TILE_K", TILE_K)
            .constant("ROWS", tile.rows)
            .constant("COLUMNS", tile.columns);
        self.operands(dispatch, tile)
    }

    /// The pieces that load and store, the parameters and the grid.
    fn operands(&self, dispatch: Dispatch, tile: Tile) -> Dispatch {
        let [x, w, y] = self.types;
        let vectors = self.loads_vectors();
        let dispatch = dispatch.element("element_x", x).element("element_w", w).element("element_y", y);
        let dispatch = self.epilogue.constants(dispatch).part(self.x_part(vectors));
        let dispatch = dispatch.part(if vectors { wgsl!("gemm/w_rows.wgsl") } else { wgsl!("gemm/w_rows_scalar.wgsl") });
        let stores_vectors = self.n.is_multiple_of(4);
        let dispatch = dispatch.part(if stores_vectors { wgsl!("gemm/y_rows.wgsl") } else { wgsl!("gemm/y_rows_scalar.wgsl") });
        let [scale, shift, residual] = self.epilogue.bindings(2);
        dispatch.params(self.params(tile)).bind([0, 1, scale, shift, residual]).over_groups(self.tiles(tile))
    }

    /// Whether four neighbouring k lie in one aligned vector of x and w.
    fn loads_vectors(&self) -> bool {
        match self.geometry {
            Geometry::Rows => self.k.is_multiple_of(4),
            Geometry::Windows(w) => w.group_channels.is_multiple_of(4),
        }
    }

    fn x_part(&self, vectors: bool) -> Source {
        match (self.geometry, vectors) {
            (Geometry::Rows, true) => wgsl!("gemm/x_rows.wgsl"),
            (Geometry::Rows, false) => wgsl!("gemm/x_rows_scalar.wgsl"),
            (Geometry::Windows(_), true) => wgsl!("gemm/x_conv.wgsl"),
            (Geometry::Windows(_), false) => wgsl!("gemm/x_conv_scalar.wgsl"),
        }
    }

    fn params(&self, tile: Tile) -> Words {
        let common = [self.m, self.n, self.k, self.m.div_ceil(tile.m), self.n.div_ceil(tile.n), self.groups];
        match self.geometry {
            Geometry::Rows => Words::of(common),
            Geometry::Windows(w) => {
                // The shader divides k by multiplying with a rounded reciprocal: exact below this bound.
                assert!(self.k < 1 << 21, "convolution: windows of {} elements are too large", self.k);
                let rest = [w.height, w.width, w.channels, w.group_channels, w.out_height, w.out_width, w.kernel_width];
                let words = [&common[..], &rest, &[w.stride, w.padding, w.dilation]].concat();
                Words::of(words).float(1.0 / w.group_channels as f32).float(1.0 / w.kernel_width as f32)
            }
        }
    }

    /// Multiply-adds counted as two.
    pub(crate) fn operations(&self) -> u64 {
        2 * (self.m * self.n * self.groups) as u64 * self.k as u64
    }
}

/// Types of a product's operands, for the ops' constructors.
pub(crate) fn types(inputs: &[TensorType], outputs: &[TensorType]) -> [DType; 3] {
    [inputs[0].dtype, inputs[1].dtype, outputs[0].dtype]
}
