//! AdamW (Loshchilov & Hutter, ICLR 2019), as PyTorch's `torch.optim.AdamW` computes it.

use super::{BLOCK, CONTROL, TEST_SIZES, WIDTH, is_arena, over_arena};
use crate::gpu::{Capabilities, Dispatch};
use crate::graph::check::{Case, noise};
use crate::graph::{Graph, Op, Var, ids};
use crate::tensor::compare::Tolerance;
use crate::tensor::{DType, Host, TensorType};
use crate::wgsl;

/// With `g` the gradient times the control's factor, lr and wd those of the element's group and t the steps done:
///
/// `m ← m + (1 − β₁)(g − m)`, `v ← v + (1 − β₂)(g² − v)`,
/// `x ← x (1 − lr · wd) − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.
///
/// Inputs x, gradient, m, v (arenas), group u32 `[n / 64]`, rates f32 `[G, 2]` (lr, wd), [control](super::Control) f32 `[8]`;
/// outputs x, m and v, in place. A skipped step changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// β₁ and β₂, 0.9 and 0.999 by habit.
    pub betas: [f64; 2],
    /// ε, 1e-8 by habit.
    pub epsilon: f64,
}

/// The wires of an update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The parameters.
    pub x: Var,
    /// Their gradient.
    pub gradient: Var,
    /// The running mean of the gradient.
    pub m: Var,
    /// The running mean of its square.
    pub v: Var,
    /// u32 `[n / 64]`: the group of each block, below the number of rows of `rates`.
    pub group: Var,
    /// f32 `[G, 2]`: learning rate and weight decay of each group.
    pub rates: Var,
    /// f32 `[8]`: see [`Control`](super::Control).
    pub control: Var,
}

impl AdamW {
    /// Appends the update and returns x as it is behind it.
    pub fn append(self, g: &mut Graph, wires: Update) -> Var {
        let Update { x, gradient, m, v, group, rates, control } = wires;
        g.apply(self, &[x, gradient, m, v, group, rates, control])
    }
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let blocks = |x: TensorType| TensorType::new([x.shape.len() / BLOCK], DType::U32);
        let fits = matches!(inputs, &[x, g, m, v, group, rates, control]
            if is_arena(&x) && [g, m, v] == [x; 3] && group == blocks(x)
                && rates == TensorType::f32([rates.shape.rows(), 2]) && control == TensorType::f32([CONTROL]));
        assert!(fits, "adamw: wants four equal arenas f32 [n], u32 [n / {BLOCK}], f32 [G, 2] and [{CONTROL}], found {}", ids(inputs));
        vec![inputs[0]; 3]
    }

    fn reference(&self, inputs: &[&Host], outputs: &[TensorType]) -> Vec<Host> {
        let [mut x, gradient, mut m, mut v] = [0, 1, 2, 3].map(|i| inputs[i].to_f32().into_owned());
        let (group, rates, control) = (inputs[4].as_u32(), inputs[5].to_f32(), inputs[6].to_f32());
        let [one_less_beta1, one_less_beta2] = self.betas.map(|beta| (1.0 - beta) as f32);
        for i in 0..if control[2] == 0.0 { 0 } else { x.len() } {
            let (lr, wd) = (rates[group[i / BLOCK] as usize * 2], rates[group[i / BLOCK] as usize * 2 + 1]);
            let g = gradient[i] * control[1];
            m[i] += one_less_beta1 * (g - m[i]);
            v[i] += one_less_beta2 * (g * g - v[i]);
            let root = v[i].sqrt() / control[6].sqrt() + self.epsilon as f32;
            x[i] = x[i] * (1.0 - lr * wd) - lr / control[5] * (m[i] / root);
        }
        outputs.iter().zip([x, m, v]).map(|(&ty, values)| Host::from_f32(ty, values)).collect()
    }

    fn kernels(&self, inputs: &[TensorType], _outputs: &[TensorType], _device: &Capabilities) -> Vec<Dispatch> {
        let kernel = Dispatch::new(wgsl!("optim/adamw.wgsl"), 7).constant("BLOCK", BLOCK / WIDTH).bind([1, 4, 5, 6]);
        let numbers = [1.0 - self.betas[0], 1.0 - self.betas[1], self.epsilon];
        vec![over_arena(kernel, inputs[0].shape.len(), |words| numbers.iter().fold(words, |words, &v| words.float(v as f32)))]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0), (2, 1), (3, 2)]
    }

    fn operations(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        15 * inputs[0].shape.len() as u64
    }
}

/// Cases of the op table.
pub(super) fn cases() -> Vec<Case> {
    let op = AdamW { betas: [0.9, 0.999], epsilon: 1e-8 };
    // Norm, factor, done, steps, skipped, bias corrections.
    let first = [3.0, 0.25, 1.0, 1.0, 0.0, 0.1, 0.001, 0.0];
    let later = [3.0, 1.0, 1.0, 900.0, 3.0, 1.0, 0.6, 0.0];
    let skipped = [0.0, 0.0, 0.0, 900.0, 4.0, 1.0, 0.6, 0.0];
    let mut cases = Vec::new();
    let mut push = |n: usize, seed: u64, gradient: Option<Host>, control: [f32; CONTROL]| {
        let squares = noise([n], seed + 2).to_f32().iter().map(|v| v * v * 0.01).collect();
        let group = (0..n / BLOCK).map(|i| (i * i % 3) as u32).collect();
        let inputs = vec![
            noise([n], seed),
            gradient.unwrap_or_else(|| noise([n], seed + 1)),
            noise([n], seed + 3),
            Host::f32([n], squares),
            Host::u32([n / BLOCK], group),
            Host::f32([3, 2], vec![1e-3, 0.1, 1e-1, 0.0, 0.0, 1.0]),
            Host::f32([CONTROL], control.to_vec()),
        ];
        // WGSL allows 2.5 ulp for the division and as much for the root, and their error is of the size of the update, not of
        // the parameter that is left: on an H100 4 of 65344 were off by 1.8e-7.
        cases.push(Case::new(op, inputs, Tolerance { absolute: 1e-6, relative: 1e-5 }));
    };
    for (i, n) in TEST_SIZES.into_iter().enumerate() {
        push(n, 10 * i as u64, None, if i % 2 == 0 { first } else { later });
    }
    push(BLOCK, 90, Some(Host::f32([BLOCK], vec![0.0; BLOCK])), first);
    push(3 * BLOCK, 91, Some(Host::f32([3 * BLOCK], vec![1e-20; 3 * BLOCK])), first);
    // In a skipped step the gradient may be anything.
    push(3 * BLOCK, 92, None, skipped);
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_step_changes_no_bit_whatever_the_gradient_is() {
        let arena = TensorType::f32([BLOCK]);
        let [x, m, v] = [1, 2, 3].map(|seed| noise([BLOCK], seed));
        let wild = Host::f32([BLOCK], vec![f32::NAN; BLOCK]);
        let (group, rates) = (Host::u32([1], vec![0]), Host::f32([1, 2], vec![0.1, 0.1]));
        let control = Host::f32([CONTROL], vec![0.0; CONTROL]);
        let op = AdamW { betas: [0.9, 0.999], epsilon: 1e-8 };
        let found = op.reference(&[&x, &wild, &m, &v, &group, &rates, &control], &[arena; 3]);
        assert_eq!(found, [x, m, v]);
    }

    #[test]
    #[should_panic(expected = "f32[64], f32[65]")]
    fn arenas_of_other_sizes_are_refused() {
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32([BLOCK]));
        let other = g.input("other", TensorType::f32([BLOCK + 1]));
        g.apply(AdamW { betas: [0.9, 0.999], epsilon: 1e-8 }, &[x, other, x, x, x, x, x]);
    }
}
