//! How far a student's features are from a teacher's: what distillation makes small.
//!
//! Shapes: student `[B, N, C]`, teacher `[B, M, C]`, partner `[B, N]` (u32, below M), weight `[B, N]`, loss `[B, N]`; features may be
//! f16, all else is f32. Row j of an image is compared with the teacher's row `partner[j]` of the same image; several rows may have
//! one partner. Saved for backward: the inputs. The gradient goes to the student alone. Two features that are equal have the
//! distance 1e-6, the root of [`EPS`], and no gradient.

use super::test_weights;
use crate::gpu::{Capabilities, Dispatch, Words};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Io, Op, Var, ids};
use crate::kernels::rows::{RowLayout, width_of};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// Added to the sum of squares under the root, which has no slope at 0.
const EPS: f32 = 1e-12;

/// `loss = weight · √(Σ_c (s − t)² + 1e-12)`, or `weight · Σ_c (s − t)²`; inputs student, teacher, partner, weight.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// Without the root.
    pub squared: bool,
}

/// The gradient of [`Distance`] with respect to the student; inputs student, teacher, partner, weight, d_loss.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBackward {
    /// Whose gradient.
    pub of: Distance,
}

/// The type of the losses.
#[track_caller]
fn check(op: &str, inputs: &[TensorType], further: usize) -> TensorType {
    let wants = "student [B, N, C], teacher [B, M, C], partner u32 [B, N], then f32 like it";
    let fits = inputs.len() == 3 + further && inputs[..2].iter().all(|t| t.dtype.is_float() && t.shape.rank() == 3);
    assert!(fits, "{op}: wants {wants}, found {}", ids(inputs));
    let ([images, students, channels], [of, _, width]) = (inputs[0].shape.blc(), inputs[1].shape.blc());
    let losses = TensorType::f32([images, students]);
    let fits = (of, width) == (images, channels) && inputs[2] == losses.with_dtype(DType::U32) && inputs[3..].iter().all(|t| *t == losses);
    assert!(fits, "{op}: wants {wants}, found {}", ids(inputs));
    losses
}

/// The rows of student and teacher that are compared, in the order of the losses.
fn pairs<'a>(student: &'a [f32], teacher: &'a [f32], partner: &'a [u32], inputs: &[&Host]) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let ([_, students, channels], teachers) = (inputs[0].shape().blc(), inputs[1].shape().blc()[1]);
    student.chunks(channels).zip(partner).enumerate().map(move |(row, (s, &partner))| {
        let at = (row / students * teachers + (partner as usize).min(teachers - 1)) * channels;
        (s, &teacher[at..at + channels])
    })
}

fn squares(s: &[f32], t: &[f32]) -> f32 {
    s.iter().zip(t).map(|(s, t)| f64::from(s - t) * f64::from(s - t)).sum::<f64>() as f32
}

fn kernels(source: crate::gpu::shader::Source, squared: bool, inputs: &[TensorType]) -> Vec<Dispatch> {
    let ([_, students, channels], teachers) = (inputs[0].shape.blc(), inputs[1].shape.blc()[1]);
    let kernel = |width: usize| {
        let dispatch = Dispatch::new(source, inputs.len())
            .wide("wide_s", inputs[0].dtype, width)
            .wide("wide_t", inputs[1].dtype, width)
            .flag("SQUARED", squared)
            .params(Words::of([inputs[0].shape.rows(), channels / width, students, teachers]).float(EPS));
        RowLayout::new(inputs[0].shape, width).apply(dispatch)
    };
    width_of(channels).map(kernel).collect()
}

impl Op for Distance {
    fn name(&self) -> &'static str {
        "distance"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![check(self.name(), inputs, 1)]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let (student, teacher, weight) = (inputs[0].to_f32(), inputs[1].to_f32(), inputs[3].to_f32());
        let loss = |((s, t), &weight): ((&[f32], &[f32]), &f32)| {
            let squares = squares(s, t);
            let distance = if self.squared { squares } else { (squares + EPS).sqrt() };
            if weight == 0.0 { 0.0 } else { weight * distance }
        };
        let losses = pairs(&student, &teacher, inputs[2].as_u32(), inputs).zip(weight.iter()).map(loss);
        vec![Host::from_f32(outputs[0], losses.collect())]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        kernels(wgsl!("loss/distance.wgsl"), self.squared, inputs)
    }

    fn gradient(&self, graph: &mut Graph, io: &Io, d_outputs: &[Option<Var>], _wanted: &[bool]) -> Vec<Option<Var>> {
        let inputs = |d_loss| [io.inputs[0], io.inputs[1], io.inputs[2], io.inputs[3], d_loss];
        let d_student = d_outputs[0].map(|d_loss| graph.apply(DistanceBackward { of: *self }, &inputs(d_loss)));
        vec![d_student, None, None, None]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        3 * inputs[0].shape.len() as u64
    }
}

impl Op for DistanceBackward {
    fn name(&self) -> &'static str {
        "distance_backward"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        check(self.name(), inputs, 2);
        vec![inputs[0]]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [student, teacher, weight, d_loss] = [0, 1, 3, 4].map(|i| inputs[i].to_f32());
        let mut d_student = Vec::with_capacity(student.len());
        for (row, (s, t)) in pairs(&student, &teacher, inputs[2].as_u32(), inputs).enumerate() {
            let slope = if self.of.squared { 2.0 } else { 1.0 / (squares(s, t) + EPS).sqrt() };
            let factor = slope * (d_loss[row] * weight[row]);
            d_student.extend(s.iter().zip(t).map(|(s, t)| if weight[row] == 0.0 { 0.0 } else { factor * (s - t) }));
        }
        vec![Host::from_f32(outputs[0], d_student)]
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        kernels(wgsl!("loss/distance_backward.wgsl"), self.of.squared, inputs)
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        5 * inputs[0].shape.len() as u64
    }
}

/// Cases of both ops.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |forward: [Host; 4], seed: u64| {
        let d_loss = noise(forward[3].shape().dims(), seed);
        for of in [false, true].map(|squared| Distance { squared }) {
            let backward = [&forward[..], std::slice::from_ref(&d_loss)].concat();
            let tolerance = Tolerance { absolute: 1e-5, relative: 1e-4 };
            let pair = [Case::new(of, forward.to_vec(), tolerance), Case::new(DistanceBackward { of }, backward, tolerance)];
            if forward[0].shape().len() < 20_000 {
                cases.extend(pair.iter().map(|case| narrow(case, 2)));
                cases.extend(pair.iter().map(|case| narrow(case, 1)));
            }
            cases.extend(pair);
        }
    };
    // B, N, M, C: one number, one query, primes, more and fewer teachers, past the lanes of a row, DETR's, past 65,535 workgroups.
    let sizes = [(1, 1, 1, 1), (2, 1, 3, 5), (3, 5, 2, 7), (2, 7, 11, 64), (1, 3, 3, 1028), (2, 100, 100, 256), (2, 33_000, 3, 33)];
    for (i, (b, n, m, c)) in sizes.into_iter().enumerate() {
        let seed = 10 * i as u64;
        let partner = noise([b, n], seed + 2).to_f32().iter().map(|v| ((v + 1.0) / 2.0 * m as f32) as u32).collect();
        push([noise([b, n, c], seed), noise([b, m, c], seed + 1), Host::u32([b, n], partner), test_weights(&[b, n], seed + 3)], seed + 4);
    }
    // Equal features, no query kept, all with one partner, and rows of weight 0 that may hold anything.
    let (student, teacher) = (noise([1, 6, 8], 90), noise([1, 6, 8], 91));
    let (own, one, half) = (Host::u32([1, 6], (0..6).collect()), Host::u32([1, 6], vec![4; 6]), Host::f32([1, 6], vec![0.5; 6]));
    push([student.clone(), student.clone(), own.clone(), half.clone()], 92);
    push([student.clone(), teacher.clone(), own.clone(), Host::f32([1, 6], vec![0.0; 6])], 93);
    push([student.clone(), teacher.clone(), one, half], 94);
    let wild = Host::f32([1, 2, 2], vec![f32::MAX, -f32::MAX, 0.25, 0.5]);
    push([wild, Host::f32([1, 1, 2], vec![0.5, 0.25]), Host::u32([1, 2], vec![0, 0]), Host::f32([1, 2], vec![0.0, 1.0])], 95);
    cases
}

/// A case with its first `features` inputs, student and teacher, in f16.
fn narrow(case: &Case, features: usize) -> Case {
    let mut narrow = Case { tolerance: Tolerance::of(4e-3), ..case.clone() };
    // What f16 cannot hold becomes what it can.
    let clip = |host: &Host| Host::f32(host.shape().dims(), host.to_f32().iter().map(|v| v.clamp(-6e4, 6e4)).collect());
    narrow.inputs[..features].iter_mut().for_each(|host| *host = clip(host).cast(DType::F16));
    narrow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &dyn Op, inputs: &[&Host]) -> Vec<f32> {
        let types: Vec<TensorType> = inputs.iter().map(|h| h.ty()).collect();
        op.reference(inputs, &op.outputs(&types))[0].to_f32().into_owned()
    }

    #[test]
    fn distances_are_euclids_and_partners_are_looked_up_in_their_own_image() {
        let student = Host::f32([2, 1, 2], vec![3.0, 4.0, 1.0, 1.0]);
        let teacher = Host::f32([2, 2, 2], vec![0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 1.0, 3.0]);
        let (partner, weight) = (Host::u32([2, 1], vec![0, 1]), Host::f32([2, 1], vec![0.5, 1.0]));
        let inputs = [&student, &teacher, &partner, &weight];
        assert_eq!(run(&Distance { squared: false }, &inputs), [2.5, 2.0]);
        assert_eq!(run(&Distance { squared: true }, &inputs), [12.5, 4.0]);
        let one = Host::f32([2, 1], vec![1.0; 2]);
        let inputs = [&student, &teacher, &partner, &weight, &one];
        let d = run(&DistanceBackward { of: Distance { squared: false } }, &inputs);
        assert!(d.iter().zip([0.3, 0.4, 0.0, -1.0]).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{d:?}");
    }

    #[test]
    fn equal_features_have_no_gradient_and_weight_0_no_loss() {
        let x = Host::f32([1, 1, 3], vec![1.0, -2.0, 3.0]);
        let (partner, one, zero) = (Host::u32([1, 1], vec![0]), Host::f32([1, 1], vec![1.0]), Host::f32([1, 1], vec![0.0]));
        let root = Distance { squared: false };
        assert_eq!(run(&root, &[&x, &x, &partner, &one]), [1e-6]);
        assert_eq!(run(&DistanceBackward { of: root }, &[&x, &x, &partner, &one, &one]), [0.0; 3]);
        assert_eq!(run(&root, &[&x, &x, &partner, &zero]), [0.0]);
    }

    #[test]
    #[should_panic(expected = "f32[1, 2, 3], f32[1, 2, 4]")]
    fn features_of_another_width_are_refused() {
        let (partner, weight) = (TensorType::new([1, 2], DType::U32), TensorType::f32([1, 2]));
        Distance { squared: false }.outputs(&[TensorType::f32([1, 2, 3]), TensorType::f32([1, 2, 4]), partner, weight]);
    }
}
