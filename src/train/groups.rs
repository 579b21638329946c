//! Which parameters learn, how fast, and which of them decay.
//!
//! By name: a rule speaks of all parameters whose dotted name holds its own as whole parts in a row. So `backbone` is the whole
//! backbone, `backbone.0.body.layer1` one of its stages, `bbox_embed.layers.2` one layer, and `layer1` is not `layer12`.

use crate::graph::Layout;
use crate::kernels::optim::BLOCK;
use crate::models::config::Backbone;
use crate::nn::ParamSpec;
use crate::nn::quantized::is_quantizers;
use crate::tensor::{Host, TensorType};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is different for some parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whole parts of their names, in a row.
    pub name: String,
    /// Their learning rate, if it is another.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Their weight decay, if it is another.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

/// Which parameters learn, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    /// Learning rate.
    pub lr: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Whether biases and the parameters of norms, which are those of one dimension, decay too, as in DETR. Step sizes and zero
    /// points never do.
    pub decay_vectors: bool,
    /// What is different for some; a later rule counts more.
    pub rules: Vec<Rule>,
    /// Parameters that do not learn, by whole parts of their names.
    pub frozen: Vec<String>,
}

/// The layers of a backbone that DETR does not train: the stem and `layer1` of a ResNet, as in the original, and `features.0` to
/// `features.3` of MobileNetV2, which is as far in pixels (stride 4) and where backward would take the most memory.
pub fn first_layers(backbone: &Backbone) -> Vec<String> {
    let first: &[&str] = match backbone {
        Backbone::Resnet(_) => &["conv1", "layer1"],
        Backbone::MobilenetV2(_) => &["features.0", "features.1", "features.2", "features.3"],
    };
    first.iter().map(|name| format!("backbone.0.body.{name}")).collect()
}

/// Whether a dotted name holds `part` as whole parts in a row.
fn names(part: &str, name: &str) -> bool {
    let (part, name): (Vec<&str>, Vec<&str>) = (part.split('.').collect(), name.split('.').collect());
    name.windows(part.len()).any(|window| window == part)
}

/// The trained parameters of a model: where they lie in an arena, and to which group each belongs.
#[derive(Clone, Debug)]
pub struct Groups {
    layout: Arc<Layout>,
    of: BTreeMap<String, usize>,
    /// Learning rate and weight decay of each group.
    rates: Vec<[f64; 2]>,
}

impl Groups {
    /// Sorts the parameters of a model; statistics that no training changes are left out.
    ///
    /// # Errors
    /// [`Error::Config`] when a rule speaks of no parameter, a rate is negative or no number, or nothing is left to train.
    pub fn new(config: &GroupConfig, specs: &BTreeMap<String, ParamSpec>) -> Result<Self> {
        let learnable: Vec<(&String, &ParamSpec)> = specs.iter().filter(|(_, spec)| !spec.buffer).collect();
        config.check(&learnable)?;
        let is_frozen = |name: &str| config.frozen.iter().any(|part| names(part, name));
        let (mut of, mut rates) = (BTreeMap::new(), Vec::new());
        for (name, spec) in &learnable {
            if is_frozen(name) {
                continue;
            }
            let own = config.rates_of(name, spec);
            let group = rates.iter().position(|r| *r == own).unwrap_or_else(|| {
                rates.push(own);
                rates.len() - 1
            });
            of.insert((*name).clone(), group);
        }
        if of.is_empty() {
            return Err(Error::Config(format!("all {} parameters are frozen: nothing is left to train", learnable.len())));
        }
        let layout = Layout::new(of.keys().map(|name| (name.clone(), TensorType::f32(specs[name].shape.dims()))));
        Ok(Self { layout: Arc::new(layout), of, rates })
    }

    /// The same without the parameters that a loss does not depend on: they have no gradient, and would only decay.
    pub fn with_gradient(mut self, has_gradient: impl Fn(&str) -> bool) -> Self {
        self.of.retain(|name, _| has_gradient(name));
        let places = self.layout.places().filter(|(name, _, _)| has_gradient(name));
        self.layout = Arc::new(Layout::new(places.map(|(name, _, ty)| (name.to_owned(), ty))));
        self
    }

    /// Where the trained parameters lie in an arena.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Whether a parameter is trained.
    pub fn contains(&self, name: &str) -> bool {
        self.of.contains_key(name)
    }

    /// Number of elements of an arena, padding included.
    pub fn elements(&self) -> usize {
        self.layout.bytes() / 4
    }

    /// Number of groups.
    pub fn count(&self) -> usize {
        self.rates.len()
    }

    /// The group of each block of 64 elements, u32 `[elements / 64]`.
    pub fn blocks(&self) -> Host {
        let mut blocks = vec![0; self.elements() / BLOCK];
        for (name, offset, ty) in self.layout.places() {
            let first = offset / (4 * BLOCK);
            blocks[first..first + ty.shape.len().div_ceil(BLOCK)].fill(self.of[name] as u32);
        }
        Host::u32([blocks.len()], blocks)
    }

    /// Learning rate and weight decay of each group, f32 `[groups, 2]`, the learning rates times a factor.
    pub fn rates(&self, factor: f32) -> Host {
        let rates = self.rates.iter().flat_map(|&[lr, decay]| [(lr * f64::from(factor)) as f32, decay as f32]).collect();
        Host::f32([self.rates.len(), 2], rates)
    }
}

impl GroupConfig {
    /// DETR's: another learning rate for the backbone, whose first layers stay, and decay for everything.
    pub fn detr(backbone: &Backbone, [lr, lr_backbone]: [f64; 2], weight_decay: f64) -> Self {
        let rules = vec![Rule { name: "backbone".into(), lr: Some(lr_backbone), weight_decay: None }];
        Self { lr, weight_decay, decay_vectors: true, rules, frozen: first_layers(backbone) }
    }

    fn check(&self, learnable: &[(&String, &ParamSpec)]) -> Result<()> {
        let rate = |what: String, value: Option<f64>| match value {
            Some(value) if !(0.0..=1e3).contains(&value) => Err(Error::Config(format!("{what} is {value}; it must be between 0 and 1000"))),
            _ => Ok(()),
        };
        rate("`lr`".into(), Some(self.lr))?;
        rate("`weight_decay`".into(), Some(self.weight_decay))?;
        for rule in &self.rules {
            rate(format!("`lr` of `{}`", rule.name), rule.lr)?;
            rate(format!("`weight_decay` of `{}`", rule.name), rule.weight_decay)?;
        }
        let parts = self.rules.iter().map(|rule| &rule.name).chain(&self.frozen);
        for part in parts {
            if !learnable.iter().any(|(name, _)| names(part, name)) {
                let known: std::collections::BTreeSet<&str> = learnable.iter().filter_map(|(name, _)| name.split('.').next()).collect();
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                return Err(Error::Config(format!("no parameter is called `{part}` or lies in it; names begin with {known}")));
            }
        }
        Ok(())
    }

    /// Learning rate and weight decay of a parameter.
    fn rates_of(&self, name: &str, spec: &ParamSpec) -> [f64; 2] {
        let decays = (self.decay_vectors || spec.shape.rank() > 1) && !is_quantizers(name);
        let rules = self.rules.iter().filter(|rule| names(&rule.name, name));
        let rates =
            rules.fold([self.lr, self.weight_decay], |[lr, decay], rule| [rule.lr.unwrap_or(lr), rule.weight_decay.unwrap_or(decay)]);
        [rates[0], if decays { rates[1] } else { 0.0 }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Entry;
    use crate::models::{BatchSize, ModelConfig, Results, detr};
    use crate::nn::{Init, Precision};
    use crate::tensor::Shape;

    fn specs(names: &[(&str, &[usize])]) -> BTreeMap<String, ParamSpec> {
        let spec = |shape: &[usize]| ParamSpec { shape: Shape::new(shape), init: Init::Constant(0.0), buffer: false };
        names.iter().map(|&(name, shape)| (name.to_owned(), spec(shape))).collect()
    }

    fn plain() -> GroupConfig {
        GroupConfig { lr: 2.0, weight_decay: 0.5, decay_vectors: true, rules: vec![], frozen: vec![] }
    }

    fn of_backbone(lr: f64) -> Rule {
        Rule { name: "backbone".into(), lr: Some(lr), weight_decay: None }
    }

    fn model(backbone: &str) -> (ModelConfig, BTreeMap<String, ParamSpec>) {
        let config = ModelConfig::detr(backbone).unwrap();
        let net = detr(&config, (BatchSize { images: 1, height: 64, width: 64 }, Entry::Bytes), Precision::F32, Results::Everything);
        (config, net.into_parts().1)
    }

    #[test]
    fn parts_of_names_are_whole() {
        assert!(names("backbone", "backbone.0.body.conv1.weight"));
        assert!(names("layer1.0", "backbone.0.body.layer1.0.conv1.weight"));
        assert!(!names("layer1", "backbone.0.body.layer12.0.conv1.weight"));
        assert!(!names("backbone.layer1", "backbone.0.body.layer1.0.conv1.weight"));
        assert!(!names("a.b.c", "a.b"));
    }

    #[test]
    fn the_original_trains_what_it_trains() {
        let (config, specs) = model("resnet50");
        let groups = Groups::new(&GroupConfig::detr(&config.backbone, [1e-4, 1e-5], 1e-4), &specs).unwrap();
        let elements: usize = groups.layout().places().map(|(_, _, ty)| ty.shape.len()).sum();
        assert_eq!(elements, 41_302_368, "what PyTorch counts");
        assert_eq!(groups.count(), 2);
        assert!(!groups.contains("backbone.0.body.conv1.weight") && !groups.contains("backbone.0.body.layer1.0.conv1.weight"));
        assert!(!groups.contains("backbone.0.body.layer2.0.bn1.weight") && groups.contains("backbone.0.body.layer2.0.conv1.weight"));
    }

    #[test]
    fn the_first_blocks_of_mobilenet_stay() {
        let (config, specs) = model("mobilenet_v2");
        let groups = Groups::new(&GroupConfig { frozen: first_layers(&config.backbone), ..plain() }, &specs).unwrap();
        assert!(
            !groups.contains("backbone.0.body.features.3.conv.2.weight") && groups.contains("backbone.0.body.features.4.conv.2.weight")
        );
        assert!(groups.contains("backbone.0.body.features.13.conv.2.weight"), "`features.1` is not `features.13`");
    }

    #[test]
    fn every_block_has_the_group_of_its_tensor() {
        let specs = specs(&[("a.weight", &[3, 43]), ("backbone.b", &[64]), ("backbone.w", &[65, 2]), ("z.bias", &[1])]);
        let of_weight = Rule { name: "backbone.w".into(), lr: Some(0.1), weight_decay: Some(0.0) };
        let rules = vec![of_backbone(0.2), of_weight];
        let groups = Groups::new(&GroupConfig { decay_vectors: false, rules, ..plain() }, &specs).unwrap();
        // 129 elements are three blocks, 64 one, 130 three, 1 one; every tensor begins at an even one.
        assert_eq!(groups.blocks().as_u32(), [0, 0, 0, 0, 1, 0, 2, 2, 2, 0, 3, 0]);
        assert_eq!(groups.rates(0.5).to_f32().as_ref(), [1.0, 0.5, 0.1, 0.0, 0.05, 0.0, 1.0, 0.0]);
        assert_eq!(groups.elements(), 12 * BLOCK);
        let fewer = groups.with_gradient(|name| name != "backbone.w");
        assert_eq!(fewer.blocks().as_u32(), [0, 0, 0, 0, 1, 0, 3, 0]);
    }

    #[test]
    fn mistakes_are_told() {
        let specs = specs(&[("backbone.w", &[2, 2]), ("head.w", &[2])]);
        let told = |config: GroupConfig| Groups::new(&config, &specs).unwrap_err().to_string();
        let unknown = told(GroupConfig { frozen: vec!["back".into()], ..plain() });
        assert!(unknown.contains("no parameter is called `back`") && unknown.contains("backbone, head"), "{unknown}");
        assert!(told(GroupConfig { frozen: vec!["backbone".into(), "head".into()], ..plain() }).contains("nothing is left"));
        assert!(told(GroupConfig { weight_decay: -1.0, ..plain() }).contains("-1"));
        assert!(told(GroupConfig { rules: vec![of_backbone(f64::NAN)], ..plain() }).contains("`lr` of `backbone` is NaN"));
    }
}
