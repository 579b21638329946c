//! Low-bit detection transformers on any GPU, in Rust and WGSL.
//!
//! # The one idea
//!
//! Build a graph once, derive its backward, rewrite it, compile it to a flat plan, replay the plan:
//!
//! ```text
//! model code ──> Graph ──backward──> Graph ──fold, fuse──> Graph ──Plan::compile──> Plan ──run──> outputs
//!                (ops, shapes)                (rewrites)          (buffers, pipelines, bind groups)
//! ```
//!
//! Inside a run nothing is allocated, compiled or looked up, and shapes never depend on data. The same graph runs on the CPU
//! through each op's twin ([`graph::interpret`]), which is the oracle of every test.
//!
//! # The rooms
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`tensor`] | values without a device: shapes, element types, host tensors, the one place that compares numbers |
//! | [`gpu`] | all that speaks wgpu and knows nothing of networks: device choice, capabilities, shader composition, pipelines, what is kept of them between runs |
//! | [`graph`] | the graph, the op contract, the reverse walk, folding and fusing, the memory plan, plans, the checkers |
//! | [`kernels`] | the op table: one Rust file for each family of files in `shaders/`, with twin, gradient and test cases |
//! | [`quant`] | quantizers before they are graphs: bits, granularity, where step sizes start, packed codes |
//! | [`nn`] | layers: scoped parameters with PyTorch's names, their initialization, and low bits as a property of each |
//! | [`models`] | what reads like the papers: backbones, transformer, DETR, SMCA-DETR, postprocessing, the detector that runs them, calibration, looks inside |
//! | [`weights`] | checkpoints, read without trust: Hugging Face, original DETR, torchvision, our own, packed low bits |
//! | [`data`] | pictures, preprocessing, COCO and VOC data sets, augmentation, batches on threads |
//! | [`train`] | matching, criterion, distillation, optimizer and schedules, the training step and the loop, resuming, the ablation |
//! | [`eval`] | average precision as COCO and PASCAL VOC compute it |
//! | [`draw`] | boxes, labels and heat maps on pictures, plots |
//! | [`files`] | reading and writing small files safely |
//!
//! The command (`src/main.rs`, `src/cli/`) is a user of this library: a file or a folder for each subcommand.
//!
//! # One detection, through the rooms
//!
//! [`data::image::read`] gives an upright RGB picture; [`data::preprocess`] resizes it as Pillow does and pads a
//! batch of bytes. [`models::Detector`] builds the DETR graph for that size with [`nn`], whose first node normalizes the bytes, folds what
//! depends on parameters alone, fuses biases, norms, skip connections and activations into the products before them, compiles the
//! [`graph::Plan`] and keeps it; where memory is limited, the first layers run on parts of the batch ([`graph::within`]). A run writes the
//! batch, submits all kernel launches in a few compute passes and reads back only logits and boxes, which [`models::postprocess`] turns
//! into detections in the pixels of the original picture.
//!
//! # Low bits, through the rooms
//!
//! A [`models::ModelConfig`] with a [`quant::Quantization`] makes every layer of [`nn`] ask for its bits. Such a layer turns its input and
//! its weights into codes ([`kernels::quantize`]) and multiplies these as integers ([`kernels::integer`], [`kernels::head_codes`]), in
//! training and after it: the same ops, so the same sums and, because no product is contracted into a sum and every reciprocal is
//! correctly rounded, the same next codes. [`graph::fuse`] then lets products, norms, sums and softmaxes write the next codes themselves; where a backbone's skip connections are
//! codes too ([`nn::quantized::kept`]), pools, sums and the next layers' quantizers read these, and no floats are written; for
//! use alone, [`graph::fuse_for`] a device makes one op of an attention ([`kernels::integer_attention`]), and of a layer with its norm
//! ([`kernels::integer::IntegerLinearNorm`]), where that is faster. Backward reads the codes; gradients pass straight through the rounding.
//! In training the small work of all quantizers shares a few launches
//! ([`graph::Quantizers`]).
//!
//! # Distillation, through the rooms
//!
//! Networks name values inside them ([`nn::Net::tap`]): queries before and behind their alignment, attention maps, co-attended features. With a
//! [`train::Teacher`], [`train::train_graph`] appends the teacher's forward on the same pictures to the student's ([`train::Teaching`]); the host
//! matches queries when it has the boxes of both ([`train::distill`]), in the turn in which it matches predictions with objects; and the
//! distance of the features is one more loss. Where aligned queries start in a model that had none is [`models::align`]'s.
//!
//! # Conventions
//!
//! - Channels last: activations `[B, H, W, C]` and `[B, L, C]`, linear weights `[out, in]`, convolution weights
//!   `[out, kh, kw, in / groups]`. PyTorch's layouts exist only inside [`weights`].
//! - Tensors are contiguous, of rank 1 to 4, in `f32`, `f16`, `u32` or, for codes, `i8`. A reshape is free; nothing has strides.
//! - One node is one kernel launch. What a gradient needs of the forward is one of its outputs. `d_x` is the gradient of `x`.
//! - Every reduction has a fixed order: results repeat to the bit on one device.
//! - Masks are large finite negatives; nothing relies on NaN or infinity in a shader.
//! - A programmer's mistake panics while a graph is built; a user's mistake is an [`Error`] that says what to do.
//!
//! # Adding an op
//!
//! The WGSL in `shaders/`, the Rust file in `src/kernels/` (see [`graph::Op`]), one line in [`kernels::TABLE`]. The kernel tests,
//! gradient checks, shader audit and `qdetr check` enumerate that table.
//!
//! # Where it has run
//!
//! Vulkan only: Mesa's lavapipe in CI, NVIDIA on Linux for speed. For DX12 and Metal every shader is translated by naga and checked as far
//! as that goes (`tests/shaders.rs`); none has been executed there.

pub mod boxes;
pub mod data;
pub mod draw;
pub mod error;
pub mod eval;
pub mod files;
pub mod gpu;
pub mod graph;
pub mod kernels;
pub mod models;
pub mod nn;
pub mod quant;
pub mod rng;
pub mod tensor;
pub mod train;
pub mod weights;

pub use error::{Error, Result};

/// The example in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
