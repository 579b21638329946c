//! DETR and SMCA-DETR: backbone, transformer and heads, as one graph.
//!
//! Pictures enter as bytes, which the graph's first node normalizes, or as floats that a user has normalized ([`Entry`]); where padding is,
//! pictures' sizes say or a mask ([`Valid`]). Behind [`Input`] there is no difference.

use super::ModelConfig;
use super::backbone::backbone;
use super::config::Attention;
use super::smca::Image;
use super::transformer::{Decoded, Tokens, decoder, decoder_norm, encoder};
use crate::data::preprocess::normalization_table;
use crate::data::{Entry, Pictures};
use crate::graph::Var;
use crate::kernels::concat::concat;
use crate::kernels::normalize::{ROWS, normalize};
use crate::kernels::position::{Valid, mask_resize, sine_position};
use crate::kernels::unary::{cast, sigmoid};
use crate::nn::quantized::Quantizing;
use crate::nn::{Conv, Linear, Net, Precision, mlp};
use crate::tensor::{DType, Host, TensorType};
use std::fmt;

/// The size of a batch: images, and the height and width they are padded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchSize {
    /// Number of images.
    pub images: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

/// What a graph is built for: the size of its batches, and as what pictures enter.
pub type Given = (BatchSize, Entry);

impl BatchSize {
    /// The size of a batch of pictures.
    pub fn of(pictures: &Pictures) -> Self {
        let [images, height, width] = pictures.dims();
        Self { images, height, width }
    }
}

/// Images × height × width.
impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {} × {}", self.images, self.height, self.width)
    }
}

/// Which results a graph has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Results {
    /// `logits [B, N, K + 1]` and `pred_boxes [B, N, 4]` (cxcywh, 0 to 1 of the padded size).
    #[default]
    Answers,
    /// Also `feature_map [B, h, w, channels]`, `encoder_memory [B, L, C]`, and of each decoder layer `i`
    /// `decoder_hidden.i [B, N, C]` (behind the shared norm), `aux_logits.i` and `aux_boxes.i`.
    Everything,
    /// What losses need: `logits [layers · B, N, K + 1]` and `pred_boxes [layers · B, N, 4]` of all decoder layers, the first
    /// one first, and N the object queries and so many groups of auxiliary ones behind them.
    Layers {
        /// Auxiliary groups of queries, each as many as the object queries.
        query_groups: usize,
    },
}

/// What a network sees of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// Pixels `[B, H, W, 3]`, normalized and zero on padding.
    pub pixels: Var,
    /// Where the pictures are.
    pub valid: Valid,
}

/// The values of one forward.
#[derive(Clone, Debug)]
pub struct Forward {
    /// What it saw.
    pub input: Input,
    /// What the backbone gives, `[B, h, w, channels]`.
    pub feature_map: Var,
    /// What the encoder gives, `[B, L, C]`.
    pub memory: Var,
    /// Decoder layers behind the shared norm, `[B, N, C]`: each of them, only the last, or for losses all in one
    /// `[layers · B, N, C]`.
    pub hidden: Vec<Var>,
    /// The class head on each of them, f32 `[.., N, K + 1]`.
    pub logits: Vec<Var>,
    /// The box head on each of them, f32 `[.., N, 4]`, cxcywh from 0 to 1.
    pub boxes: Vec<Var>,
}

/// The forward on a batch.
pub fn forward(net: &mut Net, config: &ModelConfig, input: Input, results: Results) -> Forward {
    let dtype = net.precision().dtype();
    let feature_map = net.scoped("backbone.0.body", |net| backbone(net, &config.backbone, input.pixels));
    let projected = Conv::new(config.d_model, 1).forward_biased(net, "input_proj", feature_map);
    let [b, h, w, c] = net.shape(projected).bhwc();
    let features = net.reshape(projected, [b, h * w, c]);
    let cells = mask_resize(net, input.valid, h, w);
    let positions = sine_position(net, cells, c, dtype);
    let image = Image { valid: input.valid, stride: config.backbone.stride(), columns: w };
    let mask = net.reshape(cells, [b, h * w]);
    let memory = encoder(net, config, Tokens { features, positions, mask });
    let groups = if let Results::Layers { query_groups } = results { query_groups } else { 0 };
    let decoded = decoder(net, config, Tokens { features: memory, positions, mask }, image, groups);
    let layers = match results {
        Results::Answers => decoded.layers[decoded.layers.len() - 1..].to_vec(),
        Results::Everything => decoded.layers.clone(),
        // The heads are the same for all layers: one pass over all of them.
        Results::Layers { .. } => vec![concat(net, &decoded.layers)],
    };
    let hidden: Vec<Var> = layers.into_iter().map(|x| decoder_norm(net, x)).collect();
    let logits = hidden.iter().map(|&x| class_head(net, config, x)).collect();
    let boxes = hidden.iter().map(|&x| box_head(net, c, &decoded, x)).collect();
    Forward { input, feature_map, memory, hidden, logits, boxes }
}

/// The probability of every class that SMCA-DETR starts with.
const FIRST_GUESS: f32 = 0.01;

fn class_head(net: &mut Net, config: &ModelConfig, x: Var) -> Var {
    let head = Linear::new(config.classes + 1).answer();
    let head = match config.attention {
        Attention::Plain => head,
        Attention::Smca => head.bias((FIRST_GUESS / (1.0 - FIRST_GUESS)).ln()),
    };
    head.forward(net, "class_embed", x)
}

fn box_head(net: &mut Net, c: usize, decoded: &Decoded, x: Var) -> Var {
    let mut y = mlp(net, "bbox_embed", x, &[c, c, 4], None);
    if let Some(reference) = decoded.reference {
        y = reference.shift_boxes(net, y);
    }
    sigmoid(net, y)
}

/// The inputs of a network for one batch size: see [`Entry`]. Bytes become numbers of the type that the network computes in at once.
fn input(net: &mut Net, BatchSize { images, height, width }: BatchSize, entry: Entry) -> Input {
    let names = entry.names();
    let mut given = |of: usize, dims: &[usize], dtype: DType| net.input(names[of], TensorType::new(dims, dtype));
    match entry {
        Entry::Bytes => {
            let (bytes, sizes) = (given(0, &[images, height, width, 3], DType::I8), given(1, &[images, 2], DType::U32));
            // Padding is 0 behind normalization.
            let table = [normalization_table().concat(), vec![0.0; 3]].concat();
            let table = Host::f32([ROWS, 3], table).cast(net.precision().dtype());
            let table = net.constant(table);
            let (pixels, valid) = normalize(net, bytes, sizes, table);
            Input { pixels, valid }
        }
        Entry::Floats => {
            let (pixels, mask) = (given(0, &[images, height, width, 3], DType::F32), given(1, &[images, height, width], DType::U32));
            Input { pixels, valid: Valid::mask(mask) }
        }
    }
}

/// The network to be trained, for one batch size: inputs `seed` and those of the entry, and the forward of all decoder
/// layers, `logits[0]` and `boxes[0]`, with so many auxiliary groups of queries. It has no outputs yet.
///
/// # Panics
/// As [`detr`].
pub fn for_training(config: &ModelConfig, (size, entry): Given, precision: Precision, dropout: f32, query_groups: usize) -> (Net, Forward) {
    let mut net = Net::for_training(precision, dropout).with_quantization(config.quantization.as_ref(), Quantizing::Run);
    let input = input(&mut net, size, entry);
    let forward = forward(&mut net, config, input, Results::Layers { query_groups });
    (net, forward)
}

/// The network in floats, with what its quantizers would quantize as outputs [`OBSERVED`](crate::nn::quantized::OBSERVED) and their
/// [`places`](Net::places).
///
/// # Panics
/// As [`detr`].
pub fn observing(config: &ModelConfig, (size, entry): Given) -> Net {
    let mut net = Net::new(Precision::F32).with_quantization(config.quantization.as_ref(), Quantizing::Observe);
    let input = input(&mut net, size, entry);
    forward(&mut net, config, input, Results::Answers);
    net
}

/// The network of floats for one batch size, with the answers of the last layer and no outputs yet.
pub(super) fn forward_of(config: &ModelConfig, (size, entry): Given) -> (Net, Forward) {
    let mut net = Net::new(Precision::F32);
    let input = input(&mut net, size, entry);
    let forward = forward(&mut net, config, input, Results::Answers);
    (net, forward)
}

/// The network in use for one batch size, made of parts that can be looked at, with the answers of the last layer and no outputs yet.
pub(super) fn opened(config: &ModelConfig, (size, entry): Given) -> (Net, Forward) {
    let mut net = Net::new(Precision::F32).with_quantization(config.quantization.as_ref(), Quantizing::Run).opened();
    let input = input(&mut net, size, entry);
    let forward = forward(&mut net, config, input, Results::Answers);
    (net, forward)
}

/// The inference graph for one batch size: inputs of the entry, results as asked for, all f32.
///
/// # Panics
/// When the image is too small for the backbone to leave a cell, or a tensor would have more than 2³² elements: see
/// [`ModelConfig::validate`] and [`super::Detector`].
pub fn detr(config: &ModelConfig, (size, entry): Given, precision: Precision, results: Results) -> Net {
    let mut net = Net::new(precision).with_quantization(config.quantization.as_ref(), Quantizing::Run);
    let input = input(&mut net, size, entry);
    let all = forward(&mut net, config, input, results);
    let mut output = |name: &str, var: Var| {
        let var = cast(&mut net, var, DType::F32);
        net.output(name, var);
    };
    output("logits", all.logits[all.logits.len() - 1]);
    output("pred_boxes", all.boxes[all.boxes.len() - 1]);
    if results == Results::Everything {
        output("feature_map", all.feature_map);
        output("encoder_memory", all.memory);
        for (i, &hidden) in all.hidden.iter().enumerate() {
            output(&format!("decoder_hidden.{i}"), hidden);
            output(&format!("aux_logits.{i}"), all.logits[i]);
            output(&format!("aux_boxes.{i}"), all.boxes[i]);
        }
    }
    net
}
