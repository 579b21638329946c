//! torchvision's MobileNetV2 as an ImageNet classifier: what a detector's backbone knows before it learns to detect.

use super::postprocess::softmax;
use super::{BatchSize, Session, backbone};
use crate::data::Entry;
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::nn::{Net, ParamSpec, Precision};
use crate::tensor::{Host, Shape, TensorType};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// ImageNet's classes.
const CLASSES: usize = 1000;

/// See the module.
#[derive(Debug)]
pub struct Classifier {
    session: Session,
}

fn net(BatchSize { images, height, width }: BatchSize, precision: Precision) -> Net {
    let mut net = Net::new(precision);
    let pixels = net.input("pixel_values", TensorType::f32([images, height, width, 3]));
    let logits = backbone::classifier(&mut net, pixels, CLASSES);
    net.output("logits", logits);
    net
}

fn specs() -> BTreeMap<String, ParamSpec> {
    net(BatchSize { images: 1, height: 1, width: 1 }, Precision::F32).into_parts().1
}

impl Classifier {
    /// Names and shapes of its parameters, for [`weights::fit`](crate::weights::fit).
    pub fn wants() -> Vec<(String, Shape)> {
        specs().into_iter().map(|(name, spec)| (name, spec.shape)).collect()
    }

    /// A classifier from parameters that hold all that it [`wants`](Self::wants).
    ///
    /// # Errors
    /// [`Error::Usage`] for f16 on a device without it.
    pub fn new(gpu: &Gpu, params: Values, precision: Precision) -> Result<Self> {
        precision.check(gpu)?;
        let session = Session::new(gpu, params, move |(size, _)| net(size, precision).into_parts().0)?;
        Ok(Self { session })
    }

    /// Logits `[B, 1000]` of normalized pixels f32 `[B, H, W, 3]`.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub fn run(&mut self, pixels: &Host) -> Result<Host> {
        let [images, height, width, _] = pixels.shape().bhwc();
        let mut results = self.session.call((BatchSize { images, height, width }, Entry::Floats), [("pixel_values", pixels)])?;
        Ok(results.remove("logits").expect("the graph has this output"))
    }

    /// The `k` best classes and their probabilities, best first, for each picture of a batch of normalized pixels.
    ///
    /// # Errors
    /// As [`Classifier::run`]; [`Error::NotFinite`] when the answers are no numbers.
    pub fn best(&mut self, pixels: &Host, k: usize) -> Result<Vec<Vec<(usize, f32)>>> {
        let logits = self.run(pixels)?;
        let logits = logits.to_f32();
        if logits.iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite("the classifier's answers are not finite: the weights are damaged".into()));
        }
        let best = |row: &[f32]| {
            let mut classes: Vec<(usize, f32)> = softmax(row).into_iter().enumerate().collect();
            classes.sort_by(|a, b| b.1.total_cmp(&a.1));
            classes.truncate(k);
            classes
        };
        Ok(logits.chunks(CLASSES).map(best).collect())
    }
}
