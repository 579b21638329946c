//! The losses of detection, one number a prediction: cross-entropy and focal loss of the class, L1 and GIoU of the box; and the
//! distance to a teacher's features.
//!
//! Every loss takes a weight for each prediction (a row), made by the host when it knows the matching: class weight, normalizer
//! and importance in one factor. A row of weight 0 has a loss and a gradient of exactly 0, whatever stands in it. So
//! unmatched queries, images without objects and padding need no case of their own.
//!
//! Gradients go to the predictions; targets and weights have none.

mod boxes;
mod cross_entropy;
mod distance;
mod focal;

pub use boxes::{BoxLoss, BoxLossBackward};
pub use cross_entropy::{CrossEntropy, CrossEntropyBackward};
pub use distance::{Distance, DistanceBackward};
pub use focal::{Focal, FocalBackward};

use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Var, ids};
use crate::kernels::reduce::total;
use crate::tensor::{DType, Host, TensorType};

const GROUP: usize = 256;

/// `weight · (log Σ exp x − x[wanted])` for each row of `logits` f32 `[.., C]`, with `wanted` u32 `[..]` below C and `weight`
/// f32 `[..]`: PyTorch's `cross_entropy(reduction="none")` times a weight.
pub fn cross_entropy(g: &mut Graph, logits: Var, wanted: Var, weight: Var) -> Var {
    g.apply(CrossEntropy, &[logits, wanted, weight])
}

/// `weight · Σ_c focal` for each row of `logits` f32 `[.., C]`; see [`Focal`]. A `wanted` of C or more is no class.
pub fn focal(g: &mut Graph, logits: Var, wanted: Var, weight: Var, alpha: f32, gamma: f32) -> Var {
    g.apply(Focal { alpha, gamma }, &[logits, wanted, weight])
}

/// `weight · |p − t|₁` and `weight · (1 − GIoU(p, t))` for each row of two tensors of boxes `[.., 4]`, cxcywh.
pub fn boxes(g: &mut Graph, predicted: Var, wanted: Var, weight: Var) -> (Var, Var) {
    let outputs = g.apply_all(std::sync::Arc::new(BoxLoss), &[predicted, wanted, weight]);
    (outputs[0], outputs[1])
}

/// `weight · √(Σ_c (student[j] − teacher[partner[j]])² + 1e-12)` for each row j of `student` `[B, N, C]`; see [`Distance`]. The teacher
/// learns nothing.
pub fn distance(g: &mut Graph, student: Var, teacher: Var, partner: Var, weight: Var) -> Var {
    g.apply(Distance { squared: false }, &[student, teacher, partner, weight])
}

/// The mean of `(student − teacher)²` over all elements of two tensors `[B, L, C]`: f32 `[1]`. The teacher learns nothing.
pub fn mean_square(g: &mut Graph, student: Var, teacher: Var) -> Var {
    let [b, l, c] = g.shape(student).blc();
    let partner = g.constant(Host::u32([b, l], (0..b).flat_map(|_| 0..l as u32).collect()));
    let weight = g.constant(Host::f32([b, l], vec![1.0 / (b * l * c) as f32; b * l]));
    let rows = g.apply(Distance { squared: true }, &[student, teacher, partner, weight]);
    total(g, rows)
}

/// The type of the losses of rows `[.., C]`: all dimensions but the last.
///
/// # Panics
/// When the inputs are not rows f32 `[.., C]`, a target of the wanted type, and further f32 `[..]`.
#[track_caller]
fn losses_of(op: &str, inputs: &[TensorType], wanted: impl Fn(TensorType) -> TensorType, further: usize) -> TensorType {
    let fits = inputs.len() == 2 + further && inputs[0].dtype == DType::F32 && inputs[0].shape.rank() > 1;
    assert!(fits, "{op}: wants f32 rows [.., C], a target and {further} f32 [..], found {}", ids(inputs));
    let losses = TensorType::f32(&inputs[0].shape.dims()[..inputs[0].shape.rank() - 1]);
    let fits = inputs[1] == wanted(losses) && inputs[2..].iter().all(|&t| t == losses);
    assert!(fits, "{op}: wants {}, then {losses}, beside {}, found {}", wanted(losses), inputs[0], ids(inputs));
    losses
}

/// The type of the classes of some rows.
fn classes(losses: TensorType) -> TensorType {
    losses.with_dtype(DType::U32)
}

/// Weights of which about a third is 0 and, where there are several, one negative.
fn test_weights(shape: &[usize], seed: u64) -> Host {
    let noise = noise(shape, seed);
    let weight = |&v: &f32| if v < -0.3 { 0.0 } else { v + 0.5 };
    Host::f32(shape, noise.to_f32().iter().map(weight).collect())
}

/// Classes in `0..below`.
fn test_classes(shape: &[usize], below: usize, seed: u64) -> Host {
    let noise = noise(shape, seed);
    Host::u32(shape, noise.to_f32().iter().map(|v| ((v + 1.0) / 2.0 * below as f32) as u32).collect())
}

/// Shapes of logits: one number, one class, one query, primes, DETR's, past the lanes of a row, past 65,535 workgroups.
const TEST_LOGITS: [&[usize]; 8] = [&[1, 1], &[5, 1], &[1, 7], &[3, 5, 7], &[6, 2, 10, 92], &[2, 3, 5, 31], &[3, 1021], &[65_540, 33]];

/// Cases of the op table.
pub fn cases() -> Vec<Case> {
    [cross_entropy::cases(), focal::cases(), boxes::cases(), distance::cases()].concat()
}
