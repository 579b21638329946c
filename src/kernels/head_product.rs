//! The kernels behind the ops of [`heads`](super::heads) and [`head_codes`](super::head_codes): one tiled product
//! `y[m, n] = scale · Σ_k left[m, k] · right[n, k]` for every head of every image, its operands described by strides.

use super::dropout::Dropout;
use crate::gpu::{Dispatch, Words};
use crate::tensor::{DType, TensorType};
use crate::wgsl;

/// Workgroups that keep a large GPU busy.
const BUSY: usize = 260;
const TILE_K: usize = 16;
/// Products of two differences of codes, of up to 255 each, whose sum f32 holds exactly: whole slices, at most 2^24 / 255².
const PART: usize = 256;

/// How a matrix of one head lies in a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    /// Elements from one image to the next, from one head to the next, and from one row to the next.
    strides: [usize; 3],
    dtype: DType,
    /// Rows begin at multiples of four elements and are as long.
    fours: bool,
    /// Neighbours in memory are neighbouring k, not neighbouring m or n.
    along_k: bool,
}

impl Operand {
    /// A head's slice of channels of tokens `[B, L, C]`: rows are tokens.
    pub(super) fn tokens(ty: TensorType, heads: usize, along_k: bool) -> Self {
        let [_, length, channels] = ty.shape.blc();
        let depth = channels / heads;
        Self { strides: [length * channels, depth, channels], dtype: ty.dtype, fours: depth.is_multiple_of(4), along_k }
    }

    /// A head's piece of maps `[B, h, N, S]`: rows are those of the map.
    pub(super) fn map(ty: TensorType, along_k: bool) -> Self {
        let [_, heads, rows, columns] = ty.shape.bhwc();
        let strides = [heads * rows * columns, rows * columns, columns];
        Self { strides, dtype: ty.dtype, fours: columns.is_multiple_of(4), along_k }
    }
}

/// What is done beside the product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Extra {
    Nothing,
    /// The left operand is dropped from as it is read.
    DropLeft(Dropout),
    /// Results are dropped.
    DropY(Dropout),
    /// The Gaussian around a centre is added to the results; their columns are the cells of a grid this wide.
    Prior(usize),
}

/// A product for every head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadProduct {
    pub(super) batch: usize,
    pub(super) heads: usize,
    /// m, n and k.
    pub(super) extents: [usize; 3],
    pub(super) left: Operand,
    pub(super) right: Operand,
    pub(super) y: Operand,
    pub(super) scale: f32,
    pub(super) extra: Extra,
}

/// A workgroup's share of the result, and the rows and columns that one invocation computes.
#[derive(Clone, Copy, Debug)]
struct Tile {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
}

impl HeadProduct {
    /// All kernels, best first.
    pub(super) fn kernels(&self) -> Vec<Dispatch> {
        self.choices().map(|tile| self.tiled(tile)).into()
    }

    /// All kernels on operands of codes, whose states are inputs 2 and 3, best first.
    pub(super) fn kernels_on_codes(&self) -> Vec<Dispatch> {
        self.choices().map(|tile| self.tiled_on_codes(tile)).into()
    }

    /// Tiles, best first.
    fn choices(&self) -> [Tile; 2] {
        // A narrow result, a head's channels, would leave a wide tile mostly empty.
        let (n, columns) = match self.extents[1] {
            ..=16 => (16, 4),
            17..=32 => (32, 4),
            _ => (64, 8),
        };
        let large = Tile { m: 64, n, rows: if n == 16 { 4 } else { 8 }, columns };
        let small = Tile { m: 32, n, rows: 4, columns };
        if self.tiles(large) >= BUSY { [large, small] } else { [small, large] }
    }

    fn tiles(&self, tile: Tile) -> usize {
        let [m, n, _] = self.extents;
        m.div_ceil(tile.m) * n.div_ceil(tile.n) * self.batch * self.heads
    }

    fn tiled(&self, tile: Tile) -> Dispatch {
        let dispatch = self
            .place(Dispatch::new(wgsl!("heads/product.wgsl"), 2), tile)
            .element("element_left", self.left.dtype)
            .element("element_right", self.right.dtype)
            .constant("AT_POINTS", 4)
            .constant("AT_Y", 6)
            .flag("LEFT_ALONG_K", self.left.along_k)
            .flag("DROP_LEFT", matches!(self.extra, Extra::DropLeft(_)))
            .flag("DROP_Y", matches!(self.extra, Extra::DropY(_)))
            .part(if self.left.fours { wgsl!("heads/left_vec4.wgsl") } else { wgsl!("heads/left_scalar.wgsl") })
            .part(if self.right.fours { wgsl!("heads/right_vec4.wgsl") } else { wgsl!("heads/right_scalar.wgsl") });
        let extra_inputs = match self.extra {
            Extra::Nothing => [0, 0, 0],
            Extra::DropLeft(_) | Extra::DropY(_) => [2, 0, 0],
            Extra::Prior(_) => [0, 2, 3],
        };
        dispatch.bind([&[0, 1], &extra_inputs[..]].concat())
    }

    fn tiled_on_codes(&self, tile: Tile) -> Dispatch {
        debug_assert!(self.left.along_k && !matches!(self.extra, Extra::DropLeft(_) | Extra::DropY(_)));
        self.place(Dispatch::new(wgsl!("heads/codes.wgsl"), 4), tile)
            .constant("AT_POINTS", 5)
            .constant("AT_Y", 7)
            .constant("PART", PART)
            .flag("IN_PARTS", self.extents[2] > PART)
            .flag("LEFT_FOURS", self.left.fours)
            .flag("RIGHT_FOURS", self.right.fours)
            .bind(if matches!(self.extra, Extra::Prior(_)) { [0, 1, 2, 3, 4, 5] } else { [0, 1, 2, 3, 2, 3] })
    }

    /// Adds what the kernels share.
    fn place(&self, dispatch: Dispatch, tile: Tile) -> Dispatch {
        dispatch
            .element("element_y", self.y.dtype)
            .constant("TILE_M", tile.m)
            .constant("TILE_N", tile.n)
            .constant("TILE_K", TILE_K)
            .constant("ROWS", tile.rows)
            .constant("COLUMNS", tile.columns)
            .flag("RIGHT_ALONG_K", self.right.along_k)
            .flag("PRIOR", matches!(self.extra, Extra::Prior(_)))
            .flag("HALF_Y", self.y.dtype == DType::F16)
            .part(wgsl!("heads/params.wgsl"))
            .part(wgsl!("heads/prior.wgsl"))
            .part(if self.y.fours { wgsl!("heads/y_vec4.wgsl") } else { wgsl!("heads/y_scalar.wgsl") })
            .params(self.params(tile))
            .over_groups(self.tiles(tile))
    }

    fn params(&self, tile: Tile) -> Words {
        let [m, n, k] = self.extents;
        let extents = [m, n, k, m.div_ceil(tile.m), n.div_ceil(tile.n), self.batch, self.heads];
        let words = [&extents[..], &self.left.strides, &self.right.strides, &self.y.strides].concat();
        let (dropout, columns) = match self.extra {
            Extra::Nothing => (Dropout { p: 0.0, salt: 0 }, 1),
            Extra::DropLeft(dropout) | Extra::DropY(dropout) => (dropout, 1),
            Extra::Prior(columns) => (Dropout { p: 0.0, salt: 0 }, columns),
        };
        dropout.words(Words::of(words).float(self.scale)).word(columns as u32).float(1.0 / columns as f32)
    }

    /// Multiply-adds counted as two.
    pub(super) fn operations(&self) -> u64 {
        2 * (self.batch * self.heads) as u64 * self.extents.iter().map(|&e| e as u64).product::<u64>()
    }
}
