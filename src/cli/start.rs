//! The parameters that a training run starts from: random ones, a file's, or those of a run to be resumed.

use super::model::mobilenet;
use qdetr::graph::Values;
use qdetr::models::config::{Alignment, Backbone};
use qdetr::models::detector::training_specs;
use qdetr::nn::initialize;
use qdetr::nn::quantized::is_quantizers;
use qdetr::quant::{Preset, Quantization};
use qdetr::train::{TrainConfig, saved};
use qdetr::weights::{Checkpoint, Extras, fit, load};
use qdetr::{Error, Result};
use std::path::Path;

/// What a run starts from.
pub(crate) struct Start {
    pub(crate) parameters: Values,
    /// Whether step sizes are still to be found.
    pub(crate) is_without_steps: bool,
    /// The low bits of a first stage, whose step sizes in the backbone are kept.
    pub(crate) stage: Option<Quantization>,
    /// Whether the parameters are of a whole model that has no alignment, where the run has one.
    pub(crate) is_without_alignment: bool,
}

impl Start {
    /// The step sizes of a first stage.
    pub(crate) fn kept_steps(&self) -> Values {
        let kept = self.parameters.iter().filter(|(name, _)| self.stage.is_some() && is_quantizers(name) && is_of_stage(name));
        kept.map(|(name, host)| (name.clone(), host.clone())).collect()
    }
}

const BACKBONE: &str = "backbone.";

/// Whether a first stage has a parameter: its skip connections are floats.
fn is_of_stage(name: &str) -> bool {
    name.starts_with(BACKBONE) && !name.contains(".skip.")
}

/// The parameters at the start: random, with what the given file has put over them. Where its step sizes fit, their signs go
/// into the configuration.
pub(crate) fn anew(config: &mut TrainConfig, from: Option<&Path>) -> Result<Start> {
    let checkpoint = from.map(load).transpose()?;
    let theirs = checkpoint.as_ref().and_then(|checkpoint| step_sizes(checkpoint, config));
    let is_without_steps = config.model.quantization.is_some() && theirs.is_none();
    config.model.quantization = theirs.or(config.model.quantization.take());
    let stage = checkpoint.as_ref().and_then(|checkpoint| first_stage(checkpoint, config)).filter(|_| is_without_steps);
    let is_without_alignment = checkpoint.as_ref().is_some_and(|checkpoint| lacks_alignment(checkpoint, config));
    let specs = training_specs(&config.model, config.query_groups)?;
    let mut parameters = initialize(&specs, config.seed);
    let is_kept = |name: &str| stage.is_some() && is_of_stage(name);
    let wants = |backbone: bool| {
        // Auxiliary queries always start anew.
        let part = specs.iter().filter(|(name, _)| !name.starts_with("query_embed_groups."));
        let part = part.filter(move |(name, _)| !backbone || name.starts_with(BACKBONE));
        let part = part.filter(|(name, _)| !is_without_steps || !is_quantizers(name) || is_kept(name));
        let part = part.filter(|(name, _)| !is_without_alignment || !name.contains(".q_norm."));
        part.map(|(name, spec)| (name.clone(), spec.shape)).collect::<Vec<_>>()
    };
    match checkpoint {
        Some(mut checkpoint) => {
            let mut wanted = wants(checkpoint.config.is_none());
            if !has_same_classes(&checkpoint, config) {
                // Heads of other classes start anew.
                let of_other_classes = |name: &String| name.starts_with("class_embed.");
                wanted.retain(|(name, _)| !of_other_classes(name));
                checkpoint.tensors.retain(|name, _| !of_other_classes(name));
            }
            parameters.extend(fit(checkpoint, wanted, Extras::Ignore)?);
        }
        None if matches!(config.model.backbone, Backbone::MobilenetV2(_)) => {
            parameters.extend(fit(mobilenet()?, wants(true), Extras::Ignore)?);
        }
        None => eprintln!("note: the backbone starts from random numbers; name better ones with --from"),
    }
    Ok(Start { parameters, is_without_steps, stage, is_without_alignment })
}

fn has_same_classes(checkpoint: &Checkpoint, config: &TrainConfig) -> bool {
    checkpoint.config.as_ref().is_some_and(|c| c.classes == config.model.classes)
}

/// Whether a checkpoint is a detector without the alignment that the run has. One that has some where the run says nothing keeps it.
fn lacks_alignment(checkpoint: &Checkpoint, config: &mut TrainConfig) -> bool {
    let theirs = checkpoint.config.as_ref().map(|theirs| theirs.alignment);
    if config.model.alignment == Alignment::None {
        config.model.alignment = theirs.unwrap_or_default();
    }
    theirs.is_some_and(|theirs| theirs != config.model.alignment)
}

/// The low bits of a checkpoint that is the first of two stages, where the run is the second.
fn first_stage(checkpoint: &Checkpoint, config: &TrainConfig) -> Option<Quantization> {
    let (theirs, ours) = (checkpoint.config.as_ref()?.quantization.clone()?, config.model.quantization.as_ref()?);
    let follows = theirs.preset == Preset::Backbone && (theirs.bits, theirs.zero_points) == (ours.bits, ours.zero_points);
    (follows && matches!(ours.preset, Preset::Executable | Preset::Compact)).then_some(theirs)
}

/// The low bits of a checkpoint with the signs that belong to its step sizes, where the run has the same.
fn step_sizes(checkpoint: &Checkpoint, config: &TrainConfig) -> Option<Quantization> {
    let theirs = checkpoint.config.as_ref()?.quantization.clone()?;
    let path = checkpoint.source.display();
    match &config.model.quantization {
        None => eprintln!("note: {path} is of {theirs}, and the run is of floats; train low bits with --bits"),
        Some(ours) if !theirs.is_like(ours) => eprintln!("note: {path} is of {theirs}; step sizes of {ours} start anew"),
        Some(_) if has_same_classes(checkpoint, config) => return Some(theirs),
        Some(_) => {}
    }
    None
}

/// The parameters of a run to be resumed; its low bits and their signs go into the configuration.
pub(crate) fn resumed(config: &mut TrainConfig, out: &Path) -> Result<Start> {
    let saved = saved(out)?;
    match (&saved.quantization, &config.model.quantization) {
        (Some(theirs), Some(ours)) if theirs.is_like(ours) => {}
        (_, None) => {}
        (theirs, Some(ours)) => {
            let theirs = theirs.as_ref().map_or("floats".to_owned(), ToString::to_string);
            return Err(Error::Config(format!("the run to resume is of {theirs}; this one is of {ours}: start anew, with --from")));
        }
    }
    config.model.quantization = saved.quantization;
    let specs = training_specs(&config.model, config.query_groups)?;
    let mut parameters = initialize(&specs, config.seed);
    // What does not fit is said when the state is read.
    let fitting = saved.parameters.into_iter().filter(|(name, host)| specs.get(name).is_some_and(|spec| spec.shape == host.shape()));
    parameters.extend(fitting);
    Ok(Start { parameters, is_without_steps: false, stage: None, is_without_alignment: false })
}
