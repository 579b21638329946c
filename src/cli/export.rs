//! `qdetr export`: a trained model of low bits as the small file that it is used from; and what is said of such a file.

use super::output::{bytes, check_place, print, print_json};
use clap::Args;
use qdetr::graph::Values;
use qdetr::models::ModelConfig;
use qdetr::models::detector::wants;
use qdetr::nn::quantized::{ALPHA, is_quantizers};
use qdetr::weights::{self, Extras};
use qdetr::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `qdetr export`.
#[derive(Args)]
pub(crate) struct Export {
    /// The model of low bits: best.safetensors or last.safetensors of a run of `qdetr train --bits`
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// The file to be written: weights as codes at their real width. It computes the same, but to train on takes the checkpoint
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Export {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        check_out(&self.model, &self.out)?;
        let checkpoint = weights::load(&self.model)?;
        let Some(config) = checkpoint.config.clone().filter(|config| config.quantization.is_some()) else {
            let what = "is of floats; first make a model of low bits of it, with `qdetr quantize` or `qdetr train --bits`";
            return Err(Error::format(&self.model, what));
        };
        let metadata = checkpoint.metadata.clone();
        let params = weights::fit(checkpoint, wants(&config)?, Extras::Refuse)?;
        let written = Written::save(&self.out, &config, &params, &metadata)?;
        if self.json {
            print_json(&written)?
        } else {
            print(&written)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Tells before the work that a file cannot be written, or would replace the model it is made of.
pub(crate) fn check_out(model: &Path, out: &Path) -> Result<()> {
    check_place(out)?;
    let is_model = out.canonicalize().is_ok_and(|out| model.canonicalize().is_ok_and(|model| model == out));
    if is_model {
        return Err(Error::Usage(format!("--out {} is the model itself: choose another file", out.display())));
    }
    Ok(())
}

/// A packed file that was written.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    /// Low bits, and for which layers.
    bits: String,
    /// Layers by the bits of their weights.
    layers: BTreeMap<u32, usize>,
    /// Bytes of all parameters as floats, without step sizes and zero points.
    float_bytes: u64,
    /// Bytes of the file.
    file_bytes: u64,
    out: PathBuf,
}

impl Written {
    /// Writes a model of low bits for use.
    pub(crate) fn save(out: &Path, config: &ModelConfig, params: &Values, metadata: &BTreeMap<String, String>) -> Result<Self> {
        weights::save_packed(out, config, params, metadata)?;
        let quantization = config.quantization.as_ref().expect("it was packed");
        let mut layers = BTreeMap::new();
        for name in params.keys().filter_map(|name| name.strip_suffix(".weight")) {
            let bits = quantization.layer(name).weights.filter(|_| params.contains_key(&format!("{name}.{ALPHA}")));
            bits.into_iter().for_each(|bits| *layers.entry(bits).or_default() += 1);
        }
        let floats = params.iter().filter(|(name, _)| !is_quantizers(name)).map(|(_, host)| 4 * host.shape().len() as u64);
        let file_bytes = std::fs::metadata(out).map_err(Error::io(out))?.len();
        Ok(Self { bits: quantization.to_string(), layers, float_bytes: floats.sum(), file_bytes, out: out.to_owned() })
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<String> = self.layers.iter().map(|(bits, n)| format!("{n} of {bits} bits")).collect();
        writeln!(f, "bits       {}", self.bits)?;
        writeln!(f, "layers     {}", layers.join(", "))?;
        writeln!(f, "written    {}, {}; {} as floats", self.out.display(), bytes(self.file_bytes), bytes(self.float_bytes))
    }
}
