//! What a detector computes on its way to an answer: queries, maps and all answers of its decoder's attention to the picture.
//!
//! The network is made of parts that write what a fused one keeps to itself ([`Net::opened`](crate::nn::Net::opened)); low bits are as they
//! are in use.

use super::config::Attention;
use super::detr::opened;
use super::postprocess::{Detection, by_query, detections};
use super::{BatchSize, ModelConfig, Session, limits};
use crate::Result;
use crate::data::preprocess::{Batch, Size};
use crate::gpu::Gpu;
use crate::graph::{Values, Var};
use crate::nn::Precision;
use crate::tensor::Host;

/// What attention names: see [`MultiheadAttention`](crate::nn::MultiheadAttention).
const QUERIES: &str = "q";
const ALIGNED: &str = "q_aligned";
const MAP: &str = "map";

/// A detector that can be looked into.
#[derive(Debug)]
pub struct Explainer {
    config: ModelConfig,
    session: Session,
}

/// What was seen on a batch of pictures.
#[derive(Clone, Debug)]
pub struct Look {
    attention: Attention,
    pictures: Vec<Size>,
    /// The class head's answers, `[B, N, K + 1]`.
    pub logits: Host,
    /// The boxes, `[B, N, 4]`, cxcywh from 0 to 1.
    pub boxes: Host,
    /// The decoder's attention to the picture, layer by layer.
    pub layers: Vec<CoAttention>,
    /// Cells of the feature map, down and across.
    pub cells: [usize; 2],
}

/// The attention to the picture in one decoder layer.
#[derive(Clone, Debug)]
pub struct CoAttention {
    /// The queries, all heads side by side, `[B, N, C]`, as they come from their projection.
    pub queries: Host,
    /// The same behind distribution alignment, where they go through it, and before they are quantized.
    pub aligned: Option<Host>,
    /// How much each query attends to each cell, `[B, h, N, cells]`, before it is quantized.
    pub map: Host,
}

impl Explainer {
    /// From a configuration and its parameters.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a configuration that no model can have.
    ///
    /// # Panics
    /// When a parameter is missing or has another shape.
    pub fn new(gpu: &Gpu, config: ModelConfig, params: Values) -> Result<Self> {
        config.validate()?;
        let model = config.clone();
        let build = move |given| {
            let (mut net, forward) = opened(&model, given);
            let answers = [("logits".to_owned(), forward.logits[0]), ("pred_boxes".to_owned(), forward.boxes[0])];
            let names = (0..model.decoder_layers).flat_map(|layer| [QUERIES, ALIGNED, MAP].map(|tap| name(layer, tap)));
            let taps: Vec<(String, Var)> = names.filter_map(|name| net.taps().get(&name).map(|&var| (name.clone(), var))).collect();
            for (name, var) in answers.into_iter().chain(taps) {
                net.output(&name, var);
            }
            net.into_parts().0
        };
        Ok(Self { session: Session::new(gpu, params, build)?, config })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Looks at pictures.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; failures of the device.
    pub fn look(&mut self, batch: &Batch) -> Result<Look> {
        let size = BatchSize::of(&batch.pictures);
        limits::check(&self.config, size, Precision::F32, self.session.gpu().limits())?;
        let mut seen = self.session.answer(&batch.pictures)?;
        let mut take = |name: &str| seen.remove(name);
        let [logits, boxes] = ["logits", "pred_boxes"].map(|name| take(name).expect("an output"));
        let layers = (0..self.config.decoder_layers).map(|layer| {
            let mut of = |tap: &str| take(&name(layer, tap));
            let there = "every decoder layer attends to the picture";
            CoAttention { queries: of(QUERIES).expect(there), aligned: of(ALIGNED), map: of(MAP).expect(there) }
        });
        let layers = layers.collect();
        let (net, forward) = opened(&self.config, (size, batch.pictures.entry()));
        let [_, rows, columns, _] = net.shape(forward.feature_map).bhwc();
        Ok(Look { attention: self.config.attention, pictures: batch.original.clone(), logits, boxes, layers, cells: [rows, columns] })
    }
}

/// The full name of what is tapped in the attention to the picture.
fn name(layer: usize, tap: &str) -> String {
    format!("transformer.decoder.layers.{layer}.multihead_attn.{tap}")
}

impl Look {
    /// What is on each picture, best first: see [`detections`].
    ///
    /// # Errors
    /// [`crate::Error::NotFinite`] when the answers are no numbers.
    pub fn detections(&self, threshold: f32) -> Result<Vec<Vec<Detection>>> {
        detections(self.attention, &self.logits, &self.boxes, &self.pictures, threshold)
    }

    /// The likeliest class of every query of each picture, in their order.
    ///
    /// # Errors
    /// As [`Look::detections`].
    pub fn by_query(&self) -> Result<Vec<Vec<Detection>>> {
        by_query(self.attention, &self.logits, &self.boxes, &self.pictures)
    }

    /// What a query of a picture attends to in the last layer, by cell, row by row: the mean over heads.
    ///
    /// # Panics
    /// When there is no such picture or query.
    pub fn map(&self, picture: usize, query: usize) -> Vec<f32> {
        let map = &self.layers[self.layers.len() - 1].map;
        let [_, heads, queries, cells] = map.shape().bhwc();
        let map = map.to_f32();
        let of_head = |head: usize| &map[((picture * heads + head) * queries + query) * cells..][..cells];
        (0..cells).map(|cell| (0..heads).map(|head| of_head(head)[cell]).sum::<f32>() / heads as f32).collect()
    }
}

/// The share of a map, given by cell, that lies in cells whose centre is in a box; `cell` says how wide and high one is.
pub fn share_in(bbox: [f32; 4], map: &[f32], columns: usize, [width, height]: [f32; 2]) -> f32 {
    let [left, top, right, bottom] = bbox;
    let is_inside = |cell: usize| {
        let [x, y] = [(cell % columns) as f32 + 0.5, (cell / columns) as f32 + 0.5];
        (left..right).contains(&(x * width)) && (top..bottom).contains(&(y * height))
    };
    let inside: f32 = map.iter().enumerate().filter(|(cell, _)| is_inside(*cell)).map(|(_, share)| share).sum();
    inside / map.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_in_a_box_is_that_of_its_cells() {
        let map = [0.1, 0.2, 0.3, 0.1, 0.1, 0.2];
        assert_eq!(share_in([0.0, 0.0, 30.0, 20.0], &map, 3, [10.0, 10.0]), 1.0);
        assert!((share_in([10.0, 0.0, 30.0, 8.0], &map, 3, [10.0, 10.0]) - 0.5).abs() < 1e-6);
        assert_eq!(share_in([6.0, 6.0, 9.0, 9.0], &map, 3, [10.0, 10.0]), 0.0);
    }
}
