//! Sums over rows in a fixed order, and their counterpart, which repeats rows.
//!
//! Column sums are the gradients of biases and of whatever was broadcast; means over pixels are the classifier's global
//! average pool; sums over everything are losses. Many rows are summed by two nodes: first parts of them, then the parts.

use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var};
use crate::kernels::arena_sums;
use crate::kernels::rows::width_of;
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

const GROUP: usize = 256;
/// Workgroups that a large GPU runs at once.
const BUSY: usize = 1024;
/// Rows that one node adds up; more are summed in two nodes.
const ROWS_AT_ONCE: usize = 256;

/// `x [R, C] -> y [parts, C]`: `scale` times the sum over each part's rows; a part is the next `⌈R / parts⌉` rows, the last
/// ones fewer or none. Arithmetic in `f32`, result in `to`.
#[derive(Clone, Copy, Debug)]
pub struct ColumnSums {
    /// How many sums each column has.
    pub parts: usize,
    /// Factor of each sum.
    pub scale: f32,
    /// Element type of the result.
    pub to: DType,
}

impl ColumnSums {
    fn kernel(self, x: TensorType, y: TensorType, width: usize) -> Dispatch {
        let (rows, columns) = (x.shape.rows(), x.shape.last() / width);
        // Few rows have an invocation a column. Many are shared by several: the more, the fewer workgroups there are.
        let few = rows.div_ceil(self.parts) <= 32;
        let shared = [8, 16].into_iter().find(|lanes| columns.div_ceil(*lanes) * self.parts <= BUSY).unwrap_or(32);
        let at_once = columns.next_power_of_two().min(if few { GROUP } else { shared });
        Dispatch::new(wgsl!("reduce/column_sums.wgsl"), 1)
            .wide("wide", DType::F32, width)
            .wide("wide_x", x.dtype, width)
            .wide("wide_y", y.dtype, width)
            .constant("GROUP", GROUP)
            .constant("COLUMNS", at_once)
            .params(Words::of([rows, columns, self.parts, rows.div_ceil(self.parts)]).float(self.scale))
            .over_groups(columns.div_ceil(at_once) * self.parts)
    }
}

impl Op for ColumnSums {
    fn name(&self) -> &'static str {
        "column_sums"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x] = inputs else { panic!("column_sums: wants one input, found {}", inputs.len()) };
        let fits = x.shape.rank() == 2 && x.dtype.is_float() && self.to.is_float() && self.parts > 0;
        assert!(fits, "column_sums: wants floats [R, C] and at least one part, found {x}, {self:?}");
        vec![TensorType::new([self.parts, x.shape.last()], self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (rows, columns) = (inputs[0].shape().rows(), inputs[0].shape().last());
        let chunk = rows.div_ceil(self.parts);
        let mut sums = vec![0f64; outputs[0].shape.len()];
        for (i, &v) in inputs[0].to_f32().iter().enumerate() {
            sums[i / columns / chunk * columns + i % columns] += f64::from(v);
        }
        vec![Host::from_f32(outputs[0], sums.iter().map(|&s| s as f32 * self.scale).collect())]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        width_of(inputs[0].shape.last()).map(|width| self.kernel(inputs[0], outputs[0], width)).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let x = graph.ty(io.inputs[0]);
        let spread = SpreadRows { rows: x.shape.rows(), scale: self.scale, to: x.dtype };
        vec![d_outputs[0].map(|d_y| graph.apply(spread, &[d_y]))]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        inputs[0].shape.len() as u64
    }
}

/// `x [parts, C] -> y [rows, C]`: each row of x, times `scale`, for the next `⌈rows / parts⌉` rows of y.
#[derive(Clone, Copy, Debug)]
pub struct SpreadRows {
    /// Rows of the result.
    pub rows: usize,
    /// Factor.
    pub scale: f32,
    /// Element type of the result.
    pub to: DType,
}

impl Op for SpreadRows {
    fn name(&self) -> &'static str {
        "spread_rows"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x] = inputs else { panic!("spread_rows: wants one input, found {}", inputs.len()) };
        let fits = x.shape.rank() == 2 && x.dtype.is_float() && self.to.is_float() && self.rows > 0;
        assert!(fits, "spread_rows: wants floats [parts, C] and at least one row, found {x}, {self:?}");
        vec![TensorType::new([self.rows, x.shape.last()], self.to)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (parts, columns) = (inputs[0].shape().rows(), inputs[0].shape().last());
        let chunk = self.rows.div_ceil(parts);
        let x = inputs[0].to_f32();
        let y = (0..outputs[0].shape.len()).map(|i| x[i / columns / chunk * columns + i % columns] * self.scale).collect();
        vec![Host::from_f32(outputs[0], y)]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let (n, parts, columns) = (outputs[0].shape.len(), inputs[0].shape.rows(), inputs[0].shape.last());
        let kernel = Dispatch::new(wgsl!("reduce/spread_rows.wgsl"), 1)
            .element("element_x", inputs[0].dtype)
            .element("element_y", outputs[0].dtype)
            .constant("GROUP", GROUP)
            .params(Words::of([n, columns, self.rows.div_ceil(parts)]).float(self.scale))
            .over_items(n, GROUP);
        vec![kernel]
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let x = graph.ty(io.inputs[0]);
        let sums = ColumnSums { parts: x.shape.rows(), scale: self.scale, to: x.dtype };
        vec![d_outputs[0].map(|d_y| graph.apply(sums, &[d_y]))]
    }
}

/// The sum over all dimensions but the last: `[.., C] -> [C]`, in the element type `to`.
pub fn column_sums(g: &mut Graph, x: Var, to: DType) -> Var {
    let (rows, columns) = (g.shape(x).rows(), g.shape(x).last());
    let mut x = g.reshape(x, [rows, columns]);
    if rows > ROWS_AT_ONCE {
        let parts = rows.isqrt();
        x = g.apply(ColumnSums { parts, scale: 1.0, to: DType::F32 }, &[x]);
    }
    let sums = g.apply(ColumnSums { parts: 1, scale: 1.0, to }, &[x]);
    g.reshape(sums, [columns])
}

/// The sum of all elements: `[..] -> [1]`, in `f32`.
pub fn total(g: &mut Graph, x: Var) -> Var {
    let n = g.shape(x).len();
    let column = g.reshape(x, [n, 1]);
    column_sums(g, column, DType::F32)
}

/// The mean over all pixels: `[B, H, W, C] -> [B, C]`, in x's element type.
///
/// # Panics
/// When x has not four dimensions.
pub fn global_average_pool(g: &mut Graph, x: Var) -> Var {
    let (ty, [b, h, w, c]) = (g.ty(x), g.shape(x).bhwc());
    let rows = g.reshape(x, [b * h * w, c]);
    g.apply(ColumnSums { parts: b, scale: 1.0 / (h * w) as f32, to: ty.dtype }, &[rows])
}

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    let mut cases = arena_sums::cases();
    // R, C, parts: one row, one column, primes, one past a block of columns, empty parts, more than 65,535 workgroups.
    let shapes = [
        (1, 1, 1),
        (257, 1, 1),
        (1, 33, 1),
        (7, 31, 3),
        (5, 32, 4),
        (1021, 3, 1),
        (2 * 49, 40, 2),
        (850, 257, 29),
        (3, 5, 7),
        (70_001, 2, 70_001),
    ];
    for (i, (rows, columns, parts)) in shapes.into_iter().enumerate() {
        let x = noise([rows, columns], i as u64);
        let sums = |to| ColumnSums { parts, scale: 0.5, to };
        let tolerance = Tolerance { absolute: 1e-4, relative: 1e-5 };
        cases.push(Case::new(sums(DType::F32), vec![x.clone()], tolerance));
        if rows > 65_535 {
            continue;
        }
        cases.push(Case::new(sums(DType::F16), vec![x.clone()], Tolerance::of(2e-3)));
        cases.push(Case::new(sums(DType::F32), vec![x], tolerance).in_f16(tolerance));
        let x = noise([parts, columns], i as u64);
        let spread = |to| SpreadRows { rows: rows.max(parts), scale: -1.5, to };
        cases.push(Case::new(spread(DType::F32), vec![x.clone()], Tolerance::of(1e-6)));
        cases.push(Case::new(spread(DType::F16), vec![x], Tolerance::of(2e-3)).in_f16(Tolerance::of(2e-3)));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Values, interpret};

    #[test]
    fn sums_and_means_have_the_values_they_are_named_after() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([2, 10, 30, 3]));
        let (sums, all, mean) = (column_sums(&mut g, x, DType::F32), total(&mut g, x), global_average_pool(&mut g, x));
        for (name, var) in [("sums", sums), ("all", all), ("mean", mean)] {
            g.output(name, var);
        }
        let data = (0..1800).map(|i| (i % 3) as f32 + if i < 900 { 0.0 } else { 1.0 }).collect();
        let inputs = Values::from([("x".to_owned(), Host::f32([2, 10, 30, 3], data))]);
        let y = interpret(&g, &inputs, &Values::new());
        assert_eq!(y["sums"], Host::f32([3], vec![300.0, 900.0, 1500.0]));
        assert_eq!(y["all"], Host::f32([1], vec![2700.0]));
        assert_eq!(y["mean"], Host::f32([2, 3], vec![0.0, 1.0, 2.0, 1.0, 2.0, 3.0]));
    }
}
