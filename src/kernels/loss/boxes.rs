//! L1 distance and generalized IoU (Rezatofighi et al., CVPR 2019) of predicted and wanted boxes, row by row.
//!
//! Shapes: predicted and wanted `[.., 4]` (cxcywh), weight `[..]`, both losses `[..]`. Saved for backward: the boxes.
//! Boxes with less than [`NO_AREA`] overlap nothing; their gradients are finite, as are those of boxes that touch or coincide.

use super::{GROUP, losses_of, test_weights};
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var};
use crate::tensor::compare::Tolerance;
use crate::tensor::{Host, TensorType};
use crate::wgsl;

/// Areas below this count as none: far below any pixel, and their reciprocals are finite.
const NO_AREA: f32 = 1e-24;

/// `l1 = weight · |p − t|₁` and `giou = weight · (1 − GIoU(p, t))`; inputs p, t, weight.
#[derive(Clone, Copy, Debug)]
pub struct BoxLoss;

/// The gradient of [`BoxLoss`] with respect to p; inputs p, t, weight, d_l1, d_giou.
#[derive(Clone, Copy, Debug)]
pub struct BoxLossBackward;

/// The types of the inputs after the weights are those of the weights.
fn check(op: &str, inputs: &[TensorType], further: usize) -> TensorType {
    let losses = losses_of(op, inputs, |_| inputs[0], further);
    assert_eq!(inputs[0].shape.last(), 4, "{op}: wants boxes [.., 4], found {}", inputs[0]);
    losses
}

/// One axis of two boxes: their lower and upper edges.
#[derive(Clone, Copy)]
struct Axis {
    a: [f32; 2],
    b: [f32; 2],
}

impl Axis {
    fn of(p: &[f32], t: &[f32], axis: usize) -> Self {
        let edges = |v: &[f32]| [v[axis] - 0.5 * v[axis + 2], v[axis] + 0.5 * v[axis + 2]];
        Self { a: edges(p), b: edges(t) }
    }

    fn size(self) -> f32 {
        self.a[1] - self.a[0]
    }

    /// Negative where the boxes are apart.
    fn inner(self) -> f32 {
        self.a[1].min(self.b[1]) - self.a[0].max(self.b[0])
    }

    fn outer(self) -> f32 {
        self.a[1].max(self.b[1]) - self.a[0].min(self.b[0])
    }
}

/// Areas of the intersection, the union and the smallest box around both.
fn areas([x, y]: [Axis; 2]) -> [f32; 3] {
    let intersection = x.inner().max(0.0) * y.inner().max(0.0);
    let union = x.size() * y.size() + (x.b[1] - x.b[0]) * (y.b[1] - y.b[0]) - intersection;
    [intersection, union, x.outer() * y.outer()]
}

fn one_less_giou(axes: [Axis; 2]) -> f32 {
    let [intersection, union, hull] = areas(axes);
    let ratio = |part: f32, whole: f32| if whole < NO_AREA { 0.0 } else { part / whole };
    1.0 - (ratio(intersection, union) - ratio(hull - union, hull))
}

/// The gradient of `1 − GIoU = 2 − I/U − U/H` with respect to the edges of the first box: for each axis lower, upper.
fn d_edges(axes: [Axis; 2]) -> [[f32; 2]; 2] {
    let [intersection, union, hull] = areas(axes);
    let reciprocal = |area: f32| if area < NO_AREA { 0.0 } else { 1.0 / area };
    let (per_union, per_hull) = (reciprocal(union), reciprocal(hull));
    let d_area = intersection * per_union * per_union - per_hull;
    let d_intersection = -per_union - d_area;
    let d_hull = union * per_hull * per_hull;
    let slopes = |this: Axis, other: Axis| {
        let touch = if this.inner() >= 0.0 { 1.0 } else { 0.0 };
        let inner = d_intersection * touch * other.inner().max(0.0);
        let (outer, own) = (d_hull * other.outer(), d_area * other.size());
        let [low, high] = [0, 1].map(|edge| share_of_min(this.a[edge], this.b[edge]));
        [-own - inner * (1.0 - low) - outer * low, own + inner * high + outer * (1.0 - high)]
    };
    [slopes(axes[0], axes[1]), slopes(axes[1], axes[0])]
}

/// How much of `min(a, b)` moves with a: half where they are equal, so that two equal boxes have no slope.
fn share_of_min(a: f32, b: f32) -> f32 {
    if a == b { 0.5 } else { f32::from(a < b) }
}

impl Op for BoxLoss {
    fn name(&self) -> &'static str {
        "box_loss"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![check(self.name(), inputs, 1); 2]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (p, t, weight) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[2].to_f32());
        let rows = || p.chunks(4).zip(t.chunks(4)).zip(weight.iter());
        let weighted = |weight: f32, loss: f32| if weight == 0.0 { 0.0 } else { weight * loss };
        let l1 = rows().map(|((p, t), &w)| weighted(w, p.iter().zip(t).map(|(p, t)| (p - t).abs()).sum()));
        let giou = rows().map(|((p, t), &w)| weighted(w, one_less_giou([0, 1].map(|axis| Axis::of(p, t, axis)))));
        vec![Host::from_f32(outputs[0], l1.collect()), Host::from_f32(outputs[1], giou.collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        vec![kernel(Dispatch::new(wgsl!("loss/boxes.wgsl"), 3), inputs[0].shape.rows())]
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let losses = graph.ty(io.outputs[0]);
        let [d_l1, d_giou] = [0, 1].map(|i| d_outputs[i].unwrap_or_else(|| graph.constant(Host::zeros(losses))));
        let inputs = [io.inputs[0], io.inputs[1], io.inputs[2], d_l1, d_giou];
        vec![Some(graph.apply(BoxLossBackward, &inputs)), None, None]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        40 * inputs[0].shape.rows() as u64
    }
}

impl Op for BoxLossBackward {
    fn name(&self) -> &'static str {
        "box_loss_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        check(self.name(), inputs, 3);
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [p, t, weight, d_l1, d_giou] = [0, 1, 2, 3, 4].map(|i| inputs[i].to_f32());
        let mut d_p = Vec::with_capacity(p.len());
        for (row, (p, t)) in p.chunks(4).zip(t.chunks(4)).enumerate() {
            if weight[row] == 0.0 {
                d_p.extend([0.0; 4]);
                continue;
            }
            let sign = |i: usize| if p[i] == t[i] { 0.0 } else { (p[i] - t[i]).signum() };
            let (l1, giou) = (weight[row] * d_l1[row], weight[row] * d_giou[row]);
            let edges = d_edges([0, 1].map(|axis| Axis::of(p, t, axis)));
            let centre = |axis: usize| l1 * sign(axis) + giou * (edges[axis][0] + edges[axis][1]);
            let size = |axis: usize| l1 * sign(axis + 2) + giou * 0.5 * (edges[axis][1] - edges[axis][0]);
            d_p.extend([centre(0), centre(1), size(0), size(1)]);
        }
        vec![Host::from_f32(outputs[0], d_p)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        vec![kernel(Dispatch::new(wgsl!("loss/boxes_backward.wgsl"), 5), inputs[0].shape.rows())]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        80 * inputs[0].shape.rows() as u64
    }
}

fn kernel(dispatch: Dispatch, rows: usize) -> Dispatch {
    dispatch.part(wgsl!("loss/overlap.wgsl")).constant("GROUP", GROUP).params(Words::of([rows])).over_items(rows, GROUP)
}

/// Boxes that overlap, contain each other, are apart, touch, coincide, or have no width or no area.
fn hostile() -> (Vec<f32>, Vec<f32>) {
    let pairs: [([f32; 4], [f32; 4]); 12] = [
        ([0.5, 0.5, 0.25, 0.25], [0.5, 0.5, 0.25, 0.25]),
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.25, 0.125]),
        ([0.25, 0.25, 0.25, 0.25], [0.75, 0.75, 0.25, 0.25]),
        ([0.25, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5]),
        ([0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]),
        ([0.5, 0.5, 0.0, 0.25], [0.5, 0.5, 0.25, 0.25]),
        ([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.25, 0.25]),
        ([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]),
        ([0.5, 0.5, 0.0, 0.0], [0.25, 0.5, 0.0, 0.0]),
        ([0.5, 0.5, 1e-9, 1e-9], [0.5, 0.5, 1.0, 1.0]),
        ([0.5, 0.5, 1e-14, 1e-14], [0.5, 0.5, 1e-14, 1e-14]),
        ([0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]),
    ];
    pairs.into_iter().fold(Default::default(), |(mut all_p, mut all_t): (Vec<f32>, Vec<f32>), (p, t)| {
        all_p.extend(p);
        all_t.extend(t);
        (all_p, all_t)
    })
}

/// Boxes whose edges lie on a grid of eighths, moved by `offset`: so that the steps of difference quotients pass no edge.
fn test_boxes(shape: &[usize], seed: u64, offset: f32) -> Host {
    let noise = noise(shape, seed);
    let eighths = |v: f32, most: f32| ((v + 1.0) / 2.0 * most).floor() / 8.0;
    let of = |v: &[f32]| {
        let size = [2, 3].map(|i| 0.25 + eighths(v[i], 7.0));
        [0, 1, 2, 3].map(|i| if i < 2 { eighths(v[i], 9.0) + offset + 0.5 * size[i] } else { size[i - 2] })
    };
    Host::f32(shape, noise.to_f32().chunks(4).flat_map(of).collect())
}

/// Cases of both ops.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |p: Host, t: Host, weight: Host, seed: u64| {
        let rows = weight.shape();
        let forward = vec![p, t, weight];
        let backward = [forward.clone(), vec![noise(rows.dims(), seed), noise(rows.dims(), seed + 1)]].concat();
        cases.push(Case::new(BoxLoss, forward, Tolerance::of(1e-5)));
        cases.push(Case::new(BoxLossBackward, backward, Tolerance { absolute: 1e-5, relative: 5e-5 }));
    };
    let shapes: [&[usize]; 7] = [&[1, 4], &[7, 4], &[257, 4], &[6, 2, 10, 4], &[2, 100, 4], &[1, 1, 1, 4], &[3, 1021, 4]];
    for (i, shape) in shapes.into_iter().enumerate() {
        let (rows, seed) = (&shape[..shape.len() - 1], 10 * i as u64);
        push(test_boxes(shape, seed, 0.0), test_boxes(shape, seed + 1, 0.0625), test_weights(rows, seed + 2), seed + 3);
    }
    let (p, t) = hostile();
    let (shape, rows) = ([p.len() / 4, 4], [p.len() / 4]);
    push(Host::f32(shape, p.clone()), Host::f32(shape, t.clone()), Host::f32(rows, vec![0.5; rows[0]]), 90);
    push(Host::f32(shape, t), Host::f32(shape, p), Host::f32(rows, vec![1.0; rows[0]]), 92);
    // A row of weight 0 may hold anything.
    let wild = Host::f32([2, 4], vec![f32::MAX, -f32::MAX, f32::MAX, f32::MAX, 0.5, 0.5, 0.25, 0.25]);
    push(wild, test_boxes(&[2, 4], 5, 0.0), Host::f32([2], vec![0.0, 1.0]), 94);
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::{cxcywh_to_xyxy, giou};

    fn losses(p: &[f32], t: &[f32]) -> Vec<Host> {
        let rows = p.len() / 4;
        let (p, t) = (Host::f32([rows, 4], p.to_vec()), Host::f32([rows, 4], t.to_vec()));
        BoxLoss.reference(&[&p, &t, &Host::f32([rows], vec![1.0; rows])], &[TensorType::f32([rows]); 2])
    }

    #[test]
    fn the_twin_agrees_with_the_crates_own_giou() {
        let (p, t) = (test_boxes(&[100, 4], 1, 0.0), test_boxes(&[100, 4], 2, 0.01));
        let (p, t) = (p.to_f32(), t.to_f32());
        let found = losses(&p, &t);
        for (row, (p, t)) in p.chunks(4).zip(t.chunks(4)).enumerate() {
            let [p, t] = [p, t].map(|b| cxcywh_to_xyxy([b[0], b[1], b[2], b[3]]));
            assert!((1.0 - found[1].to_f32()[row] - giou(p, t)).abs() < 1e-6, "row {row}");
        }
    }

    #[test]
    fn degenerate_boxes_have_finite_losses_and_gradients_and_equal_ones_none() {
        let (p, t) = hostile();
        let rows = p.len() / 4;
        assert!(losses(&p, &t).iter().all(|l| l.to_f32().iter().all(|v| v.is_finite())));
        let one = Host::f32([rows], vec![1.0; rows]);
        let (p, t) = (Host::f32([rows, 4], p), Host::f32([rows, 4], t));
        let d = BoxLossBackward.reference(&[&p, &t, &one, &one, &one], &[p.ty()]);
        assert!(d[0].to_f32().iter().all(|v| v.is_finite()));
        assert_eq!(d[0].to_f32()[..4], [0.0; 4]);
    }

    #[test]
    fn a_box_without_area_still_learns_to_grow() {
        let (p, t) = (Host::f32([1, 4], vec![0.5, 0.5, 0.0, 0.0]), Host::f32([1, 4], vec![0.5, 0.5, 0.25, 0.25]));
        let (one, zero) = (Host::f32([1], vec![1.0]), Host::f32([1], vec![0.0]));
        let d = BoxLossBackward.reference(&[&p, &t, &one, &one, &zero], &[p.ty()]);
        assert_eq!(d[0].to_f32().as_ref(), [0.0, 0.0, -1.0, -1.0]);
    }
}
