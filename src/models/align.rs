//! Where aligned queries start in a model that was trained without alignment.
//!
//! Distribution alignment ([`Alignment`]) replaces the queries q of a head by `γ · q̂ + β`, with q̂ normalized by its own token. With γ = 1
//! and β = 0 a trained network would see other queries than it knows. So here γ and β are, channel by channel, those that bring `γ · q̂ + β`
//! nearest to q, in least squares over what the network computes on some pictures. The paper trains from the start and needs none of this: it is ours.

use super::config::Alignment;
use super::detr::forward_of;
use super::{BatchSize, ModelConfig, Session, limits};
use crate::Result;
use crate::data::preprocess::Batch;
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::kernels::layer_norm::ALIGNMENT_EPS;
use crate::nn::Precision;
use crate::tensor::Host;
use std::collections::BTreeMap;

/// Before the name of an attention: the output that is its queries.
const QUERIES: &str = "queries.";

/// What a channel of a head needs for its line through the points (q̂, q).
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Sums {
    fn add(&mut self, x: f64, y: f64) {
        let Self { n, x: sx, y: sy, xx, xy } = *self;
        *self = Self { n: n + 1.0, x: sx + x, y: sy + y, xx: xx + x * x, xy: xy + x * y };
    }

    /// Slope and intercept; those of no alignment's start where x does not vary.
    fn line(self) -> (f32, f32) {
        let Self { n, x, y, xx, xy } = self;
        let spread = xx - x * x / n;
        if n == 0.0 || spread <= 1e-12 * xx {
            return (1.0, 0.0);
        }
        let slope = (xy - x * y / n) / spread;
        (slope as f32, ((y - slope * x) / n) as f32)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Aligner {
    config: ModelConfig,
    session: Session,
    sums: BTreeMap<String, Vec<Sums>>,
}

impl Aligner {
    /// For a model given by its configuration, which says where it is to be aligned, and its parameters without alignment. Its low bits
    /// are left aside.
    ///
    /// # Errors
    /// A configuration that no model can have; failures of the device.
    ///
    /// # Panics
    /// When a parameter is missing.
    pub fn new(gpu: &Gpu, config: &ModelConfig, params: Values) -> Result<Self> {
        config.validate()?;
        let attention = match config.alignment {
            Alignment::None => None,
            Alignment::CoAttention => Some("multihead_attn"),
            Alignment::SelfAttention => Some("self_attn"),
        };
        let names = |layer| attention.map(|a| format!("transformer.decoder.layers.{layer}.{a}"));
        let depth = config.d_model / config.heads;
        let sums =
            (0..config.decoder_layers).filter_map(names).map(|name| (name, vec![Sums::default(); depth])).collect::<BTreeMap<_, _>>();
        let config = ModelConfig { alignment: Alignment::None, quantization: None, ..config.clone() };
        let (model, wanted) = (config.clone(), sums.keys().cloned().collect::<Vec<_>>());
        let build = move |given| {
            let (mut net, _) = forward_of(&model, given);
            for name in &wanted {
                let q = net.taps()[&format!("{name}.q")];
                net.output(&format!("{QUERIES}{name}"), q);
            }
            net.into_parts().0
        };
        Ok(Self { session: Session::new(gpu, params, build)?, config, sums })
    }

    /// Takes some pictures into account.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; failures of the device.
    pub fn observe(&mut self, batch: &Batch) -> Result<()> {
        limits::check(&self.config, BatchSize::of(&batch.pictures), Precision::F32, self.session.gpu().limits())?;
        let seen = self.session.answer(&batch.pictures)?;
        for (name, sums) in &mut self.sums {
            seen[&format!("{QUERIES}{name}")].to_f32().chunks(sums.len()).for_each(|head| collect(sums, head));
        }
        Ok(())
    }

    /// `q_norm.weight` and `q_norm.bias` of every attention that is aligned.
    pub fn finish(self) -> Values {
        let params = self.sums.into_iter().flat_map(|(name, sums)| {
            let (gamma, beta): (Vec<f32>, Vec<f32>) = sums.into_iter().map(Sums::line).unzip();
            [("weight", gamma), ("bias", beta)].map(|(what, v)| (format!("{name}.q_norm.{what}"), Host::f32([v.len()], v)))
        });
        params.collect()
    }
}

/// Takes the query of one token and head.
fn collect(sums: &mut [Sums], head: &[f32]) {
    let n = head.len() as f64;
    let mean = head.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = head.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let scale = 1.0 / (variance + f64::from(ALIGNMENT_EPS)).sqrt();
    sums.iter_mut().zip(head).for_each(|(sums, &q)| sums.add((f64::from(q) - mean) * scale, f64::from(q)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_a_constant_has_none() {
        let mut sums = Sums::default();
        [(0.0, 1.0), (1.0, 3.0), (-2.0, -3.0)].into_iter().for_each(|(x, y)| sums.add(x, y));
        let (slope, intercept) = sums.line();
        assert!((slope - 2.0).abs() < 1e-6 && (intercept - 1.0).abs() < 1e-6, "{slope}, {intercept}");
        let mut constant = Sums::default();
        [(1.0, 5.0), (1.0, 5.0)].into_iter().for_each(|(x, y)| constant.add(x, y));
        assert_eq!((constant.line(), Sums::default().line()), ((1.0, 0.0), (1.0, 0.0)));
    }
}
