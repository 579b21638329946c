//! Tensors one behind the other along the first dimension, and parts of one.
//!
//! Shapes: inputs `[A, ..]`, `[B, ..]`, … alike but for the first dimension, y `[A + B + …, ..]`; a slice is `[rows, ..]`. All of one
//! type; codes i8 in whole words. The gradient of each is made of the other.

use super::rows::width_of;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;
use std::ops::Range;

const GROUP: usize = 256;
/// Inputs of one node: with the output they are all the buffers that WebGPU promises a shader.
const MOST: usize = 7;

/// All inputs, one behind the other: 1 to 7 of them.
#[derive(Clone, Copy, Debug)]
pub struct Concat;

/// Rows `first .. first + rows` of the first dimension.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// The first of them.
    pub first: usize,
    /// How many.
    pub rows: usize,
}

/// Ranges of elements of several tensors, in their order.
fn joined<'a>(parts: impl IntoIterator<Item = (&'a Host, Range<usize>)>, ty: TensorType) -> Host {
    let size = ty.dtype.size();
    let bytes = parts.into_iter().flat_map(|(part, range)| &part.as_bytes()[range.start * size..range.end * size]);
    Host::from_bytes(ty, &bytes.copied().collect::<Vec<_>>())
}

/// What kernels take a tensor for: codes for words of four.
fn as_words(ty: TensorType) -> (DType, usize) {
    if ty.dtype == DType::I8 { (DType::U32, ty.shape.len() / 4) } else { (ty.dtype, ty.shape.len()) }
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        assert!((1..=MOST).contains(&inputs.len()), "concat: wants 1 to {MOST} inputs, found {}", inputs.len());
        let can_be = |ty: &TensorType| ty.dtype != DType::I8 || ty.shape.len().is_multiple_of(4);
        let same = |ty: &TensorType| can_be(ty) && ty.dtype == inputs[0].dtype && ty.shape.dims()[1..] == inputs[0].shape.dims()[1..];
        assert!(inputs.iter().all(same), "concat: wants tensors alike but for the first dimension, codes in words, found {}", ids(inputs));
        let rows = inputs.iter().map(|ty| ty.shape.dims()[0]).sum();
        vec![TensorType { shape: inputs[0].shape.with_first(rows), ..inputs[0] }]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        vec![joined(inputs.iter().map(|h| (*h, 0..h.shape().len())), outputs[0])]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let kernel = |width: usize| {
            let mut end = 0;
            let mut ends: Vec<usize> = inputs
                .iter()
                .map(|ty| {
                    end += as_words(*ty).1 / width;
                    end
                })
                .collect();
            ends.resize(MOST, end);
            let bindings: Vec<usize> = (0..MOST).map(|i| if i < inputs.len() { i } else { 0 }).collect();
            Dispatch::new(wgsl!("concat/concat.wgsl"), MOST)
                .wide("wide", as_words(inputs[0]).0, width)
                .constant("GROUP", GROUP)
                .bind(bindings)
                .params(Words::of(ends))
                .over_items(as_words(outputs[0]).1 / width, GROUP)
        };
        // All are multiples of four.
        width_of(inputs.iter().fold(0, |all, ty| all | as_words(*ty).1)).map(kernel).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], wanted: &[bool]) -> Vec<Option<Var>> {
        let Some(d_y) = d_outputs[0] else { return vec![None; io.inputs.len()] };
        let mut first = 0;
        let of_input = |(&input, &wanted): (&Var, &bool)| {
            let rows = graph.shape(input).dims()[0];
            first += rows;
            wanted.then(|| slice(graph, d_y, first - rows, rows))
        };
        io.inputs.iter().zip(wanted).map(of_input).collect()
    }
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x] = inputs else { panic!("slice: wants one input, found {}", ids(inputs)) };
        let row = x.shape.len() / x.shape.dims()[0];
        let in_words = x.dtype != DType::I8 || [x.shape.len(), self.first * row, self.rows * row].iter().all(|n| n.is_multiple_of(4));
        let inside = in_words && self.rows > 0 && self.first + self.rows <= x.shape.dims()[0];
        assert!(inside, "slice: {x} has no rows {} .. {}, in words if they are codes", self.first, self.first + self.rows);
        vec![TensorType { shape: x.shape.with_first(self.rows), ..*x }]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let row = inputs[0].shape().len() / inputs[0].shape().dims()[0];
        vec![joined([(inputs[0], self.first * row..(self.first + self.rows) * row)], outputs[0])]
    }

    fn kernels(&self, inputs: &[TensorType], outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let row = inputs[0].shape.len() / inputs[0].shape.dims()[0];
        let a_word = if inputs[0].dtype == DType::I8 { 4 } else { 1 };
        let ((dtype, n), first) = (as_words(outputs[0]), self.first * row / a_word);
        let kernel = |width: usize| {
            Dispatch::new(wgsl!("concat/slice.wgsl"), 1)
                .wide("wide", dtype, width)
                .constant("GROUP", GROUP)
                .params(Words::of([n / width, first / width]))
                .over_items(n / width, GROUP)
        };
        // Both are multiples of four.
        width_of(n | first).map(kernel).collect()
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let Some(d_y) = d_outputs[0] else { return vec![None] };
        let x = graph.ty(io.inputs[0]);
        let mut zeros = |rows: usize| {
            let ty = |rows| TensorType { shape: x.shape.with_first(rows), ..x };
            (rows > 0).then(|| graph.constant(Host::zeros(ty(rows))))
        };
        let before = zeros(self.first);
        let behind = zeros(x.shape.dims()[0] - self.first - self.rows);
        let parts: Vec<Var> = before.into_iter().chain([d_y]).chain(behind).collect();
        vec![Some(concat(graph, &parts))]
    }
}

/// The inputs one behind the other along the first dimension. One input is no node; more than seven are several.
///
/// # Panics
/// When there is none, or they differ in more than the first dimension.
#[track_caller]
pub fn concat(g: &mut Graph, parts: &[Var]) -> Var {
    match parts {
        [] => panic!("concat: nothing to join"),
        [part] => *part,
        _ if parts.len() <= MOST => g.apply(Concat, parts),
        _ => {
            let joined: Vec<Var> = parts.chunks(MOST).map(|parts| concat(g, parts)).collect();
            concat(g, &joined)
        }
    }
}

/// Rows `first .. first + rows` of the first dimension of x; no node for all of them.
#[track_caller]
pub fn slice(g: &mut Graph, x: Var, first: usize, rows: usize) -> Var {
    if first == 0 && g.shape(x).dims()[0] == rows { x } else { g.apply(Slice { first, rows }, &[x]) }
}

/// Cases of the op table: the first dimensions, then the others.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], &[usize]); 9] = [
        (&[1], &[]),
        (&[1, 1], &[]),
        (&[3, 1, 2], &[5]),
        (&[1, 2, 3, 4, 5, 6, 7], &[3, 7]),
        (&[2; 6], &[100, 16]),
        (&[5, 4], &[1, 1, 1]),
        (&[1, 257], &[4]),
        (&[13, 1, 1, 1, 11], &[2, 2, 12]),
        (&[65_535 * 128, 65_535 * 128 + 300], &[]),
    ];
    let mut cases = Vec::new();
    for (i, (rows, rest)) in shapes.into_iter().enumerate() {
        let tensor = |(j, &rows): (usize, &usize)| noise([&[rows], rest].concat(), (10 * i + j) as u64);
        let inputs: Vec<Host> = rows.iter().enumerate().map(tensor).collect();
        let total: usize = rows.iter().sum();
        let slices = [(0, rows[0]), (total - rows[0], rows[0]), (total / 3, total.div_ceil(2))];
        let whole = Concat.reference(&inputs.iter().collect::<Vec<_>>(), &Concat.outputs(&inputs.iter().map(Host::ty).collect::<Vec<_>>()));
        let slice = |(first, rows)| Case::new(Slice { first, rows }, whole.clone(), Tolerance::EXACT);
        let mut all = vec![Case::new(Concat, inputs, Tolerance::EXACT)];
        all.extend(slices.map(slice));
        if total < 1000 {
            all.extend(all.clone().iter().map(|case| case.in_f16(Tolerance::EXACT)));
        }
        cases.extend(all);
    }
    let codes = [[3, 20], [1, 20], [6, 20]].map(|shape| Host::i8(shape, (0..20 * shape[0]).map(|i| (i * 37 % 256) as u8 as i8).collect()));
    let sizes = [[2, 2], [1, 2]].map(|shape| Host::u32(shape, (0..2 * shape[0] as u32).map(|i| i * 0x4000_0001).collect()));
    let slices = [(&codes[2], 1, 3), (&codes[0], 2, 1), (&sizes[0], 1, 1)];
    cases.extend(slices.map(|(x, first, rows)| Case::new(Slice { first, rows }, vec![x.clone()], Tolerance::EXACT)));
    cases.extend([codes.to_vec(), sizes.to_vec()].map(|inputs| Case::new(Concat, inputs, Tolerance::EXACT)));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Values, interpret};

    #[test]
    fn more_parts_than_a_shader_can_read_are_joined_in_steps() {
        let mut g = Graph::new();
        let parts: Vec<Var> = (0..17).map(|i| g.constant(Host::f32([1, 2], vec![i as f32, 0.5]))).collect();
        let y = concat(&mut g, &parts);
        g.output("y", y);
        assert_eq!(g.nodes().len(), 4);
        let y = &interpret(&g, &Values::new(), &Values::new())["y"];
        assert_eq!(y.shape().dims(), [17, 2]);
        assert!(y.to_f32().chunks(2).enumerate().all(|(i, row)| row == [i as f32, 0.5]));
    }

    #[test]
    fn everything_is_no_node() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([3, 2]));
        assert_eq!((concat(&mut g, &[x]), slice(&mut g, x, 0, 3)), (x, x));
    }

    #[test]
    #[should_panic(expected = "alike but for the first dimension")]
    fn other_columns_are_refused() {
        Concat.outputs(&[TensorType::f32([2, 3]), TensorType::f32([2, 4])]);
    }
}
