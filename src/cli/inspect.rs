//! `qdetr inspect`: what a model file holds, layer by layer, and the sizes and operations that papers would print of it.

use super::model::SizeArgs;
use super::output::{bytes, print, print_json};
use clap::Args;
use qdetr::models::costs::Costs;
use qdetr::models::detector::wants;
use qdetr::quant::pack::packed_len;
use qdetr::quant::{LayerBits, Quantization};
use qdetr::tensor::Shape;
use qdetr::weights::{self, Checkpoint, Extras};
use qdetr::{Error, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `qdetr inspect`.
#[derive(Args)]
pub(crate) struct Inspect {
    /// Weights of any kind that `qdetr detect` takes, or a backbone alone
    #[arg(value_name = "PATH")]
    model: PathBuf,
    #[command(flatten)]
    size: SizeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    /// Whose names the file uses.
    names: String,
    /// Bytes of the file or files.
    file_bytes: usize,
    /// Low bits, and for which layers; null for a model of floats.
    bits: Option<String>,
    /// Bits inside attention.
    attention_bits: Option<u32>,
    /// Quantizers of activations without negative levels.
    unsigned: BTreeSet<String>,
    layers: Vec<Layer>,
    /// Null for a backbone alone.
    totals: Option<Totals>,
}

/// A linear layer or convolution.
#[derive(Serialize)]
struct Layer {
    name: String,
    /// Of its weight, in PyTorch's order.
    shape: Vec<usize>,
    /// Bits that the layer computes with: of codes, or of the float that is stored.
    weight_bits: u32,
    /// The same of its input; null for floats.
    input_bits: Option<u32>,
    /// What the file holds: codes, f32 or f16.
    stored: String,
    /// Bytes of its weight in the file; of bf16 and f64, which are read as f32, the bytes of that.
    bytes: usize,
    multiply_adds: Option<u64>,
}

#[derive(Serialize)]
struct Totals {
    /// Numbers that are trained, without step sizes and zero points.
    parameters: u64,
    /// Statistics of batch norms.
    statistics: u64,
    /// Step sizes and zero points.
    steps: u64,
    images: usize,
    height: usize,
    width: usize,
    /// Of a forward on a batch of this size.
    multiply_adds: u64,
    /// 32 bits a real-valued number, b bits a weight of b bits.
    ideal_bytes: u64,
    /// Multiply-adds of floats, and 1/32, 1/16, 1/8, 1/4 of those of 2, 3, 4, more bits.
    ideal_operations: f64,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let report = self.report(weights::load(&self.model)?)?;
        if self.json {
            print_json(&report)?
        } else {
            print(&report)?
        }
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, checkpoint: Checkpoint) -> Result<Report> {
        let quantization = checkpoint.config.as_ref().and_then(|config| config.quantization.clone());
        let (layers, totals) = match &checkpoint.config {
            Some(config) => {
                weights::fit(checkpoint.clone(), wants(config)?, Extras::Refuse)?;
                let costs = Costs::of(config, self.size.size())?;
                let one = |layer: &_| Layer::of_model(&checkpoint, layer);
                (costs.layers.iter().map(one).collect::<Result<_>>()?, Some(self.totals(&costs)))
            }
            None => (weights_alone(&checkpoint)?, None),
        };
        Ok(Report {
            model: self.model.display().to_string(),
            names: checkpoint.dialect.to_string(),
            file_bytes: checkpoint.bytes,
            bits: quantization.as_ref().map(Quantization::to_string),
            attention_bits: quantization.as_ref().and_then(Quantization::attention),
            unsigned: quantization.map(|quantization| quantization.unsigned).unwrap_or_default(),
            layers,
            totals,
        })
    }

    fn totals(&self, costs: &Costs) -> Totals {
        let size = self.size.size();
        Totals {
            parameters: costs.parameters,
            statistics: costs.statistics,
            steps: costs.steps,
            images: size.images,
            height: size.height,
            width: size.width,
            multiply_adds: costs.multiply_adds(),
            ideal_bytes: costs.ideal_bits().div_ceil(8),
            ideal_operations: costs.ideal_operations(),
        }
    }
}

/// What looks like layers where no configuration tells: weights of two dimensions and more.
fn weights_alone(checkpoint: &Checkpoint) -> Result<Vec<Layer>> {
    let weights = checkpoint.tensors.iter().filter(|(_, tensor)| tensor.shape().rank() > 1);
    let layers = weights.filter_map(|(name, _)| name.strip_suffix(".weight"));
    layers.map(|name| Layer::new(checkpoint, name, LayerBits::default(), None)).collect()
}

impl Layer {
    fn of_model(checkpoint: &Checkpoint, layer: &qdetr::models::costs::LayerCost) -> Result<Self> {
        Self::new(checkpoint, &layer.name, layer.bits, Some(layer.multiply_adds))
    }

    fn new(checkpoint: &Checkpoint, name: &str, bits: LayerBits, multiply_adds: Option<u64>) -> Result<Self> {
        let weight = format!("{name}.weight");
        let tensor = &checkpoint.tensors[&weight];
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        let (stored, bytes) = match checkpoint.packed.get(&weight) {
            Some(&bits) => ("codes".to_owned(), packed_len(shape.len(), bits).map_err(|e| Error::Config(e.to_string()))?),
            None => (dtype.to_string(), shape.len() * dtype.size()),
        };
        let weight_bits = bits.weights.unwrap_or(8 * dtype.size() as u32);
        let (name, shape) = (name.to_owned(), torch_order(shape));
        Ok(Self { name, shape, weight_bits, input_bits: bits.inputs, stored, bytes, multiply_adds })
    }
}

/// The dimensions of a weight as PyTorch has them.
fn torch_order(shape: Shape) -> Vec<usize> {
    match *shape.dims() {
        [o, h, w, i] => vec![o, i, h, w],
        ref dims => dims.to_vec(),
    }
}

/// `1.23 G`, `34.50 M`, `678.00 k`.
fn count(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{:.2} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.layers.iter().map(|layer| layer.name.len()).max().unwrap_or_default();
        writeln!(
            f,
            "{:longest$}  {:20} {:>8} {:>7} {:>6} {:>9} {:>10}",
            "layer", "shape", "weights", "inputs", "stored", "bytes", "mult-adds"
        )?;
        for layer in &self.layers {
            let inputs = layer.input_bits.map_or("float".to_owned(), |bits| bits.to_string());
            let work = layer.multiply_adds.map_or(String::new(), count);
            let Layer { name, weight_bits, stored, .. } = layer;
            let shape = layer.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × ");
            writeln!(
                f,
                "{name:longest$}  {shape:20} {weight_bits:>8} {inputs:>7} {stored:>6} {:>9} {work:>10}",
                bytes(layer.bytes as u64)
            )?;
        }
        writeln!(f)?;
        writeln!(f, "file        {}, {}, names of {}", self.model, bytes(self.file_bytes as u64), self.names)?;
        match (&self.bits, self.attention_bits) {
            (Some(bits), Some(attention)) => writeln!(f, "bits        {bits}: weights-activations-attention; attention {attention}")?,
            _ => writeln!(f, "bits        none: a model of floats")?,
        }
        for name in &self.unsigned {
            writeln!(f, "unsigned    {name}")?;
        }
        self.totals.iter().try_for_each(|totals| write!(f, "{totals}"))
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameters, statistics, steps, images, height, width, .. } = self;
        writeln!(f, "parameters  {parameters}, {statistics} statistics of norms, {steps} step sizes and zero points")?;
        writeln!(f, "work        {} multiply-adds for {images} × {height} × {width}", count(self.multiply_adds))?;
        writeln!(f, "as papers count, idealized:")?;
        let size = self.ideal_bytes as f64;
        writeln!(
            f,
            "  size      {:.2} MiB, {:.2} MB: 32 bits a real-valued number, b bits a weight of b bits",
            size / (1 << 20) as f64,
            size / 1e6
        )?;
        let operations = count(self.ideal_operations.round() as u64);
        writeln!(f, "  OPs       {operations}: multiply-adds of floats, and 1/32, 1/16, 1/8 of those of 2, 3, 4 bits; 1/4 of 5 to 8")
    }
}
