//! What kernels share that reduce rows: how many invocations take a row, how many rows a workgroup takes.

use crate::gpu::Dispatch;
use crate::tensor::{DType, Shape};
use crate::wgsl;

/// The widths in which a dimension of `n` numbers can be read, best first: vec4s where it divides, single numbers always.
pub(super) fn width_of(n: usize) -> impl Iterator<Item = usize> {
    n.is_multiple_of(4).then_some(4).into_iter().chain([1])
}

/// Adds the type `wide` of `width` numbers and `sum_of`, `max_of` and `lanes_of`, its functions.
pub(super) fn lanes(dispatch: Dispatch, width: usize) -> Dispatch {
    let part = match width {
        4 => wgsl!("lanes/vec4.wgsl"),
        2 => wgsl!("lanes/vec2.wgsl"),
        _ => wgsl!("lanes/scalar.wgsl"),
    };
    dispatch.wide("wide", DType::F32, width).part(part)
}

/// Adds `store`, which writes floats to the binding `at`.
pub(super) fn floats(dispatch: Dispatch, at: usize, y: DType, width: usize) -> Dispatch {
    dispatch.wide("wide_y", y, width).constant("AT_Y", at).part(wgsl!("store/floats.wgsl"))
}

/// Invocations and workgroups over the rows of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowLayout {
    pub(super) lanes: usize,
    group: usize,
    rows: usize,
    width: usize,
}

impl RowLayout {
    /// The layout for rows of `shape`'s last dimension, read `width` numbers at a time: a power of two of invocations a
    /// row, at most 256, and several short rows in a workgroup of 128. Some sixteen numbers an invocation: with fewer, the
    /// barriers between invocations that share a row cost more than the row.
    pub(super) fn new(shape: Shape, width: usize) -> Self {
        let lanes = shape.last().div_ceil(16.max(width)).next_power_of_two().min(256);
        Self { lanes, group: lanes.max(128), rows: shape.rows(), width }
    }

    /// Adds constants, [`lanes`] and a grid over all rows.
    pub(super) fn apply(self, dispatch: Dispatch) -> Dispatch {
        self.constants(dispatch).over_groups(self.rows.div_ceil(self.at_once()))
    }

    /// Adds constants and [`lanes`].
    pub(super) fn constants(self, dispatch: Dispatch) -> Dispatch {
        lanes(dispatch, self.width).constant("LANES", self.lanes).constant("GROUP", self.group)
    }

    /// Rows that a workgroup takes at once.
    pub(super) fn at_once(self) -> usize {
        self.group / self.lanes
    }

    /// How often each invocation must step to pass over a row of `n` numbers.
    pub(super) fn steps(self, n: usize) -> usize {
        (n / self.width).div_ceil(self.lanes)
    }
}
