//! The kernels behind the ops of [`heads`](super::heads), [`head_codes`](super::head_codes) and [`head_values`](super::head_values): one
//! tiled product `y[m, n] = scale · Σ_k left[m, k] · right[n, k]` for every head of every image, its operands described by strides.

use super::dropout::Dropout;
use super::quantize::Levels;
use super::{head_matrix, head_packed};
use crate::gpu::shader::Source;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::tensor::{DType, TensorType};
use crate::wgsl;

/// Workgroups that keep a large GPU busy.
pub(super) const BUSY: usize = 260;
/// k of a slice of the portable kernel: as many as there is room for, since a mix of few tiles waits for each slice.
const TILES_K: [usize; 3] = [64, 32, 16];
/// Bytes of workgroup memory that WebGPU guarantees.
const ROOM: usize = 16 << 10;
/// Products of two differences of codes, of up to 255 each, whose sum f32 holds exactly: whole slices, at most 2^24 / 255².
const PART: usize = 256;

/// How a matrix of one head lies in a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    /// Elements from one image to the next, from one head to the next, and from one row to the next.
    strides: [usize; 3],
    /// Elements in a row.
    pub(super) length: usize,
    pub(super) dtype: DType,
    /// Of 16, 8, 4, 2 and 1 elements the most that rows begin at multiples of and are as long.
    pub(super) width: usize,
    /// Neighbours in memory are neighbouring k, not neighbouring m or n.
    pub(super) along_k: bool,
}

impl Operand {
    /// A head's slice of channels of tokens `[B, L, C]`: rows are tokens.
    pub(super) fn tokens(ty: TensorType, heads: usize, along_k: bool) -> Self {
        let [_, length, channels] = ty.shape.blc();
        let depth = channels / heads;
        Self { strides: [length * channels, depth, channels], length: depth, dtype: ty.dtype, width: width_of(depth), along_k }
    }

    /// A head's piece of maps `[B, h, N, S]`: rows are those of the map.
    pub(super) fn map(ty: TensorType, along_k: bool) -> Self {
        let [_, heads, rows, columns] = ty.shape.bhwc();
        let strides = [heads * rows * columns, rows * columns, columns];
        Self { strides, length: columns, dtype: ty.dtype, width: width_of(columns), along_k }
    }
}

pub(super) fn width_of(extent: usize) -> usize {
    [16, 8, 4, 2].into_iter().find(|&width| extent.is_multiple_of(width)).unwrap_or(1)
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
    /// m, n and k. Rows of a map that is the result may be longer than n: there its columns are products with zeros. Those of a map
    /// that is the left operand may be longer than k.
    pub(super) extents: [usize; 3],
    pub(super) left: Operand,
    pub(super) right: Operand,
    pub(super) y: Operand,
    pub(super) scale: f32,
    pub(super) extra: Extra,
    /// The quantizer of the result, of one step size, which is a product of codes: its codes are stored in place of floats.
    pub(super) codes: Option<Levels>,
}

/// A workgroup's share of the result, and the rows and columns that one invocation computes.
#[derive(Clone, Copy, Debug)]
struct Tile {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
}

impl Tile {
    /// k of a slice, for sums of so many terms.
    fn slice(self, k: usize) -> usize {
        let bytes = |slice: usize| slice * (self.m / 4 + 1 + self.n / 4 + 1) * 16;
        TILES_K.into_iter().find(|&slice| slice <= k && bytes(slice) <= ROOM).unwrap_or(TILES_K[2])
    }
}

/// Adds `write_y`, which stores up to four neighbours of rows that begin at multiples of `width`: floats `to` at the binding AT_Y, or the
/// codes of these behind the state of their quantizer.
pub(super) fn stores(dispatch: Dispatch, width: usize, to: DType, codes: Option<Levels>) -> Dispatch {
    let dispatch = dispatch.flag("HALF_Y", to == DType::F16);
    // Codes are made from floats that are rounded to the type without having it.
    let stored = if codes.is_some() { DType::F32 } else { to };
    let dispatch = dispatch.element("element_y", stored).wide("element_y2", stored, 2);
    let Some(levels) = codes else {
        return dispatch.part(match width {
            4.. => wgsl!("heads/y_vec4.wgsl"),
            2 => wgsl!("heads/y_vec2.wgsl"),
            _ => wgsl!("heads/y_scalar.wgsl"),
        });
    };
    dispatch
        .constant("OUT_HALF", 1 << (levels.bits - 1))
        .constant("OUT_OFFSET", if levels.signed { 0 } else { 1 << (levels.bits - 1) })
        .part(wgsl!("heads/y_codes.wgsl"))
}

/// Adds what reads four elements of an operand for the portable kernel: of its pieces for codes, for whole vectors, and for any floats.
fn read(dispatch: Dispatch, name: &str, operand: Operand, [codes, vec4, scalar]: [Source; 3]) -> Dispatch {
    let fours = operand.width >= 4;
    if operand.dtype == DType::I8 {
        return dispatch.flag(&format!("{}_FOURS", name.to_uppercase()), fours).part(codes);
    }
    dispatch.element(&format!("element_{name}"), operand.dtype).part(if fours { vec4 } else { scalar })
}

impl HeadProduct {
    /// All kernels, best first.
    pub(super) fn kernels(&self, device: &Capabilities) -> Vec<Dispatch> {
        let better = if self.is_on_codes() { head_packed::kernels(self, device) } else { head_matrix::kernels(self, device) };
        // The last one runs everywhere.
        [better, self.choices().map(|tile| self.tiled(tile)).into()].concat()
    }

    /// Whether the operands are codes, whose states are inputs 2 and 3.
    pub(super) fn is_on_codes(&self) -> bool {
        [self.left.dtype, self.right.dtype] == [DType::I8; 2]
    }

    /// Whether one operand is codes, whose state is input 2, and counts as their values, of the other operand's type.
    fn is_on_values(&self) -> bool {
        !self.is_on_codes() && [self.left.dtype, self.right.dtype].contains(&DType::I8)
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
        if self.tiles([large.m, large.n]) >= BUSY { [large, small] } else { [small, large] }
    }

    pub(super) fn tiles(&self, tile: [usize; 2]) -> usize {
        self.extents[0].div_ceil(tile[0]) * self.y.length.div_ceil(tile[1]) * self.batch * self.heads
    }

    /// The portable kernel.
    fn tiled(&self, tile: Tile) -> Dispatch {
        let dispatch = Dispatch::new(wgsl!("heads/product.wgsl"), 2)
            .constant("TILE_K", tile.slice(self.extents[2]))
            .constant("ROWS", tile.rows)
            .constant("COLUMNS", tile.columns)
            .constant("PART", PART)
            .flag("IN_PARTS", self.is_on_codes() && self.extents[2] > PART)
            .flag("LEFT_ALONG_K", self.left.along_k)
            .flag("RIGHT_ALONG_K", self.right.along_k);
        let left = [wgsl!("heads/read_left_codes.wgsl"), wgsl!("heads/left_vec4.wgsl"), wgsl!("heads/left_scalar.wgsl")];
        let right = [wgsl!("heads/read_right_codes.wgsl"), wgsl!("heads/right_vec4.wgsl"), wgsl!("heads/right_scalar.wgsl")];
        let dispatch = read(dispatch, "left", self.left, left);
        self.place(read(dispatch, "right", self.right, right), [tile.m, tile.n])
    }

    /// Adds what all kernels share: tiles, parameters, what happens to the sums, bindings and the grid.
    pub(super) fn place(&self, dispatch: Dispatch, [m, n]: [usize; 2]) -> Dispatch {
        let dispatch = stores(dispatch, self.y.width, self.y.dtype, self.codes)
            .constant("TILE_M", m)
            .constant("TILE_N", n)
            .flag("PRIOR", matches!(self.extra, Extra::Prior(_)))
            .part(wgsl!("heads/params.wgsl"))
            .part(wgsl!("heads/prior.wgsl"))
            .params(self.params([m, n]))
            .over_groups(self.tiles([m, n]));
        if self.is_on_codes() {
            self.on_codes(dispatch)
        } else if self.is_on_values() {
            self.on_values(dispatch)
        } else {
            self.on_floats(dispatch)
        }
    }

    fn on_codes(&self, dispatch: Dispatch) -> Dispatch {
        debug_assert!(self.left.along_k && !matches!(self.extra, Extra::DropLeft(_) | Extra::DropY(_)));
        let dispatch = dispatch.part(wgsl!("heads/codes.wgsl")).constant("AT_POINTS", 5).constant("AT_Y", 7);
        let inputs = if matches!(self.extra, Extra::Prior(_)) { [0, 1, 2, 3, 4, 5] } else { [0, 1, 2, 3, 2, 3] };
        if self.codes.is_some() { dispatch.bind([&inputs[..], &[4]].concat()) } else { dispatch.bind(inputs) }
    }

    fn on_values(&self, dispatch: Dispatch) -> Dispatch {
        debug_assert_eq!(self.extra, Extra::Nothing);
        dispatch
            .part(wgsl!("heads/values.wgsl"))
            .constant("AT_POINTS", 4)
            .constant("AT_Y", 6)
            .flag("HALF_VALUES", [self.left.dtype, self.right.dtype].contains(&DType::F16))
            .bind([0, 1, 2, 0, 0])
    }

    fn on_floats(&self, dispatch: Dispatch) -> Dispatch {
        let extra_inputs = match self.extra {
            Extra::Nothing => [0, 0, 0],
            Extra::DropLeft(_) | Extra::DropY(_) => [2, 0, 0],
            Extra::Prior(_) => [0, 2, 3],
        };
        dispatch
            .part(wgsl!("heads/floats.wgsl"))
            .constant("AT_POINTS", 4)
            .constant("AT_Y", 6)
            .flag("DROP_LEFT", matches!(self.extra, Extra::DropLeft(_)))
            .flag("DROP_Y", matches!(self.extra, Extra::DropY(_)))
            .bind([&[0, 1], &extra_inputs[..]].concat())
    }

    fn params(&self, tile: [usize; 2]) -> Words {
        let [m, n, k] = self.extents;
        let tiles_n = self.y.length.div_ceil(tile[1]);
        let extents = [m, n, k, self.y.length, m.div_ceil(tile[0]), tiles_n, self.batch, self.heads];
        let words = [&extents[..], &self.left.strides, &self.right.strides, &self.y.strides].concat();
        let none = Dropout { p: 0.0, salt: 0 };
        let (dropout, scale, columns) = match self.extra {
            Extra::Nothing => (none, self.scale, 1),
            Extra::DropLeft(dropout) => (dropout, self.scale * dropout.scale(), 1),
            Extra::DropY(dropout) => (dropout, self.scale, 1),
            Extra::Prior(columns) => (none, self.scale, columns),
        };
        dropout.words(Words::of(words).float(scale)).word(columns as u32).float(1.0 / columns as f32)
    }

    /// Multiply-adds counted as two.
    pub(super) fn operations(&self) -> u64 {
        2 * (self.batch * self.heads) as u64 * self.extents.iter().map(|&e| e as u64).product::<u64>()
    }
}
