//! How parameters start: PyTorch's distributions, with their numbers worked out.

use super::ParamSpec;
use crate::graph::Values;
use crate::tensor::Host;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// The distribution a parameter is drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element this.
    Constant(f32),
    /// Uniform in `[-bound, bound)`.
    Uniform(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
}

impl Init {
    /// `nn.init.xavier_uniform_`: `bound = √(6 / (fan_in + fan_out))`.
    pub fn xavier(fan_in: usize, fan_out: usize) -> Self {
        Self::Uniform((6.0 / (fan_in + fan_out) as f32).sqrt())
    }

    /// What `nn.Linear` and `nn.Conv2d` start with, weight and bias alike: `bound = √(1 / fan_in)`.
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform((1.0 / fan_in as f32).sqrt())
    }

    /// `nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")`, torchvision's for convolutions:
    /// `std = √(2 / fan_out)` with `fan_out = outputs / groups · kernel²`.
    pub fn kaiming(fan_out: usize) -> Self {
        Self::Normal((2.0 / fan_out as f32).sqrt())
    }
}

/// Draws all parameters of a model. The numbers of one parameter depend on the seed and its name only.
pub fn initialize(specs: &BTreeMap<String, ParamSpec>, seed: u64) -> Values {
    specs.iter().map(|(name, spec)| (name.clone(), draw(spec, seed ^ fnv1a(name)))).collect()
}

fn draw(spec: &ParamSpec, seed: u64) -> Host {
    let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
    let mut uniform = || rng.random::<f32>();
    let n = spec.shape.len();
    let values = match spec.init {
        Init::Constant(value) => vec![value; n],
        Init::Uniform(bound) => (0..n).map(|_| (2.0 * uniform() - 1.0) * bound).collect(),
        Init::Normal(std) => (0..n).map(|_| std * box_muller(uniform(), uniform())).collect(),
    };
    Host::f32(spec.shape.dims(), values)
}

/// A normally distributed number from two uniform ones in `[0, 1)`.
fn box_muller(u: f32, v: f32) -> f32 {
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// The 64-bit FNV-1a hash.
pub(super) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;

    fn drawn(init: Init) -> Vec<f32> {
        let specs = BTreeMap::from([("w".to_owned(), ParamSpec { shape: Shape::new([100, 100]), init, buffer: false })]);
        initialize(&specs, 7)["w"].to_f32().into_owned()
    }

    #[test]
    fn the_distributions_have_their_moments() {
        for (init, bound, std) in [
            (Init::xavier(100, 200), (6.0f32 / 300.0).sqrt(), (2.0f32 / 300.0).sqrt()),
            (Init::fan_in(64), 0.125, 0.125 / 3f32.sqrt()),
            (Init::kaiming(9 * 64), f32::MAX, (2.0f32 / 576.0).sqrt()),
        ] {
            let x = drawn(init);
            let mean = x.iter().sum::<f32>() / x.len() as f32;
            let deviation = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
            assert!(mean.abs() < 0.05 * std && (deviation / std - 1.0).abs() < 0.05, "{init:?}: {mean} {deviation}");
            assert!(x.iter().all(|v| v.abs() <= bound));
        }
    }

    #[test]
    fn a_parameter_does_not_depend_on_its_neighbours() {
        let spec = ParamSpec { shape: Shape::new([8]), init: Init::Normal(1.0), buffer: false };
        let one = BTreeMap::from([("b".to_owned(), spec)]);
        let two = BTreeMap::from([("a".to_owned(), spec), ("b".to_owned(), spec)]);
        let (one, two) = (initialize(&one, 3), initialize(&two, 3));
        assert_eq!(one["b"], two["b"]);
        assert_ne!(two["a"], two["b"]);
    }
}
