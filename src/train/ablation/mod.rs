//! The paper's ablation (Q-DETR, tables 1 and 2): parts of the method switched on one by one, over bits and seeds, with one schedule and
//! from one float model, which is the teacher too.
//!
//! | method | zero points | distribution alignment | distillation |
//! | --- | --- | --- | --- |
//! | `lsq` | | | |
//! | `baseline` | ✓ | | |
//! | `da` | ✓ | ✓ | |
//! | `fqm` | ✓ | | ✓ |
//! | `q-detr` | ✓ | ✓ | ✓ |
//!
//! This module knows what a run of an ablation is ([`Variant`]), what it is made of ([`Settings`]), what is kept of it in its folder
//! ([`Record`], [`standing`]) and how tables and a picture are made of all of them ([`Table`]). The runs themselves are
//! [`run`](super::run())'s.

mod record;
mod settings;
mod table;

pub use record::{RealValued, Record, Standing, begin, finish, real_valued, standing};
pub use settings::{Settings, fingerprint, set_fingerprint};
pub use table::{Cell, Spread, Table};

use super::TrainConfig;
use crate::models::config::Alignment;
use crate::quant::{Bits, Quantization};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is trained: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Learned step sizes alone.
    Lsq,
    /// And learned zero points: LSQ+, which the paper builds on.
    Baseline,
    /// The baseline with distribution alignment.
    Da,
    /// The baseline with foreground-aware query matching, and the distillation that it is for.
    Fqm,
    /// The baseline with both: distribution rectification distillation.
    QDetr,
}

impl Method {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] = [Self::Lsq, Self::Baseline, Self::Da, Self::Fqm, Self::QDetr];

    /// Its name on the command line and in the names of folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lsq => "lsq",
            Self::Baseline => "baseline",
            Self::Da => "da",
            Self::Fqm => "fqm",
            Self::QDetr => "q-detr",
        }
    }

    /// Its name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Lsq => "LSQ",
            Self::Baseline => "Baseline (LSQ+)",
            Self::Da => "+ DA",
            Self::Fqm => "+ FQM",
            Self::QDetr => "Q-DETR (+ DA + FQM)",
        }
    }

    /// Whether queries go through distribution alignment.
    pub fn aligns(self) -> bool {
        matches!(self, Self::Da | Self::QDetr)
    }

    /// Whether there is a teacher.
    pub fn distills(self) -> bool {
        matches!(self, Self::Fqm | Self::QDetr)
    }
}

/// One run of an ablation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// What is trained.
    pub method: Method,
    /// In how many bits.
    pub bits: Bits,
    /// Of everything random.
    pub seed: u64,
}

/// The name of its folder: `q-detr-4-4-8-1`.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.method.name(), self.bits, self.seed)
    }
}

impl Variant {
    /// All combinations, each once: the first seed's whole table before the second's, so that an ablation that is cut short has rows
    /// to compare.
    pub fn all(methods: &[Method], bits: &[Bits], seeds: &[u64]) -> Vec<Self> {
        let rows = seeds.iter().flat_map(|&seed| bits.iter().map(move |&bits| (seed, bits)));
        let runs = rows.flat_map(|(seed, bits)| methods.iter().map(move |&method| Self { method, bits, seed }));
        let mut all = Vec::new();
        for variant in runs {
            if !all.contains(&variant) {
                all.push(variant);
            }
        }
        all
    }

    /// The configuration of the run: the common one, which says how each part works where it is on, with this run's parts on.
    pub fn configure(&self, common: &TrainConfig) -> TrainConfig {
        let mut config = common.clone();
        let configured = config.model.quantization.take().unwrap_or_else(|| Quantization::new(self.bits));
        let zero_points = self.method != Method::Lsq;
        config.model.quantization = Some(Quantization { bits: self.bits, zero_points, ..configured });
        let place = if common.model.alignment == Alignment::None { Alignment::CoAttention } else { common.model.alignment };
        config.model.alignment = if self.method.aligns() { place } else { Alignment::None };
        config.distillation = self.method.distills().then(|| common.distilling());
        config.seed = self.seed;
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ModelConfig;
    use crate::quant::Preset;
    use crate::train::Distillation;

    #[test]
    fn a_seed_is_done_before_the_next_and_nothing_twice() {
        let bits = ["4-4-8", "3-3-8", "4-4-8"].map(|b| b.parse().unwrap());
        let all = Variant::all(&[Method::Lsq, Method::QDetr, Method::Lsq], &bits, &[7, 7, 1]);
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        let of_seed = |seed: u64| ["lsq-4-4-8", "q-detr-4-4-8", "lsq-3-3-8", "q-detr-3-3-8"].map(|name| format!("{name}-{seed}"));
        let mut expected = of_seed(7).to_vec();
        expected.extend(of_seed(1));
        assert_eq!(names, expected);
    }

    #[test]
    fn a_run_has_its_method_bits_and_seed_and_the_rest_of_the_configuration() {
        let model = serde_json::to_value(ModelConfig::detr("resnet18").unwrap()).unwrap();
        let mut common = TrainConfig::parse(&serde_json::json!({ "model": model, "seed": 3, "lr": 0.5 }).to_string()).unwrap();
        let run = |common: &TrainConfig, method| Variant { method, bits: "3-4-8".parse().unwrap(), seed: 9 }.configure(common);
        let config = run(&common, Method::Lsq);
        assert_eq!(config.model.quantization.unwrap().to_string(), "3-4-8 (compact, no zero points)");
        assert_eq!((config.seed, config.lr), (9, 0.5));
        let parts = |common: &TrainConfig| {
            Method::ALL.map(|method| run(common, method)).map(|config| (config.model.alignment, config.distillation.map(|d| d.weight)))
        };
        let expected = |place, weight| {
            let none = Alignment::None;
            [(none, None), (none, None), (place, None), (none, Some(weight)), (place, Some(weight))]
        };
        assert_eq!(parts(&common), expected(Alignment::CoAttention, 2.5));
        common.model.alignment = Alignment::SelfAttention;
        common.distillation = Some(Distillation { weight: 1.0, ..Distillation::default() });
        assert_eq!(parts(&common), expected(Alignment::SelfAttention, 1.0));
        let configured = Quantization { preset: Preset::Release, ..Quantization::new("4-4-8".parse().unwrap()) };
        common.model.quantization = Some(configured);
        assert_eq!(run(&common, Method::Baseline).model.quantization.unwrap().to_string(), "3-4-8 (release)");
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for method in Method::ALL {
            let name = clap::ValueEnum::to_possible_value(&method).unwrap();
            assert_eq!(name.get_name(), method.name());
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
    }
}
