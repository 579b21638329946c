//! What linear layers and convolutions share: the GEMM kernels and the choice among them.
//!
//! Both are `y[m, n] = epilogue(Σ_k x[m, k] · w[n, k])`. They differ in how row `m` of `x` is found: a row of a matrix, or
//! the window of an output pixel (implicit GEMM, nothing is unfolded in memory).

use super::epilogue::Epilogue;
use crate::gpu::{Capabilities, Dispatch, Tier, Words, shader::Source};
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

/// A workgroup's share of the result.
#[derive(Clone, Copy, Debug)]
struct Tile {
    m: usize,
    n: usize,
}

/// Tiles of the portable kernel, larger first, with the rows and columns that one invocation computes.
const TILES: [(Tile, usize); 2] = [(Tile { m: 64, n: 64 }, 8), (Tile { m: 32, n: 32 }, 4)];
const TILE_K: usize = 16;

/// The tile of the kernel for cooperative matrices.
const MATRIX_TILE: Tile = Tile { m: 64, n: 64 };

/// How many neighbouring k an operand's piece loads at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// One element at a time: any extent.
    Scalar,
    /// Four elements.
    Vector,
    /// Eight halves.
    Halves,
}

/// Workgroups that keep a large GPU busy: two for each of some 130 processors.
const BUSY: usize = 260;

impl Product {
    /// All kernels for this product, best first.
    pub(crate) fn kernels(&self, device: &Capabilities) -> Vec<Dispatch> {
        let mut kernels = Vec::new();
        if device.allows(Tier::Matrix) && self.loads(8) && self.types[..2] == [DType::F16; 2] {
            kernels.push(self.matrix());
        }
        // The larger tile does more arithmetic for each load, but only if there are enough of them for all processors.
        let large_first = self.tiles(TILES[0].0) >= BUSY;
        let order = if large_first { [0, 1] } else { [1, 0] };
        kernels.extend(order.map(|i| self.tiled(TILES[i])));
        kernels
    }

    fn tiles(&self, tile: Tile) -> usize {
        self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n) * self.groups
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
        self.operands(dispatch, tile, if self.loads(4) { Load::Vector } else { Load::Scalar })
    }

    /// The kernel for cooperative matrices.
    fn matrix(&self) -> Dispatch {
        let dispatch = Dispatch::new(wgsl!("gemm/matrix.wgsl"), 2)
            .tier(Tier::Matrix)
            .constant("TILE_M", MATRIX_TILE.m)
            .constant("TILE_N", MATRIX_TILE.n);
        let mut dispatch = self.operands(dispatch, MATRIX_TILE, Load::Halves);
        dispatch.f16 = true;
        dispatch
    }

    /// The pieces that load and store, the parameters and the grid.
    fn operands(&self, dispatch: Dispatch, tile: Tile, load: Load) -> Dispatch {
        let w = match load {
            Load::Scalar => wgsl!("gemm/w_rows_scalar.wgsl"),
            Load::Vector => wgsl!("gemm/w_rows.wgsl"),
            Load::Halves => wgsl!("gemm/w_rows_halves.wgsl"),
        };
        let y = if self.n.is_multiple_of(4) { wgsl!("gemm/y_rows.wgsl") } else { wgsl!("gemm/y_rows_scalar.wgsl") };
        let dispatch = self.epilogue.constants(dispatch.element("element_y", self.types[2]));
        let dispatch = dispatch.part(self.x_part(load)).part(w).part(y);
        let [scale, shift, residual] = self.epilogue.bindings(2);
        dispatch.params(self.params(tile)).bind([0, 1, scale, shift, residual]).over_groups(self.tiles(tile))
    }

    /// Whether `count` neighbouring k lie in one aligned vector of x and w.
    fn loads(&self, count: usize) -> bool {
        match self.geometry {
            Geometry::Rows => self.k.is_multiple_of(count),
            Geometry::Windows(w) => w.group_channels.is_multiple_of(count),
        }
    }

    fn x_part(&self, load: Load) -> Source {
        match (self.geometry, load) {
            (Geometry::Rows, Load::Scalar) => wgsl!("gemm/x_rows_scalar.wgsl"),
            (Geometry::Rows, Load::Vector) => wgsl!("gemm/x_rows.wgsl"),
            (Geometry::Rows, Load::Halves) => wgsl!("gemm/x_rows_halves.wgsl"),
            (Geometry::Windows(_), Load::Scalar) => wgsl!("gemm/x_windows_scalar.wgsl"),
            (Geometry::Windows(_), Load::Vector) => wgsl!("gemm/x_windows.wgsl"),
            (Geometry::Windows(_), Load::Halves) => wgsl!("gemm/x_windows_halves.wgsl"),
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
