//! Where training on codes, or with aligned queries, starts: from a float model and what it computes on the first pictures.

use super::{Event, TrainConfig};
use crate::Result;
use crate::data::preprocess::Batch;
use crate::data::{Dataset, Loader, LoaderOptions, Strictness};
use crate::gpu::Gpu;
use crate::graph::Values;
use crate::models::{Aligner, Calibrated, CalibrationMethod, Calibrator};
use std::sync::Arc;

/// Pictures that step sizes start from.
pub const CALIBRATION_PICTURES: usize = 64;

/// Step sizes and signs for a configuration with [`quantization`](crate::models::ModelConfig::quantization), from the parameters of
/// the float model and the first pictures of a training set in the order of training, as they are and one by one.
///
/// # Errors
/// As [`Calibrator`]; reading pictures, under [`Strictness::Fatal`], or when none can be read.
pub fn calibrate(
    gpu: &Gpu,
    config: &TrainConfig,
    set: &Dataset,
    (params, method): (Values, CalibrationMethod),
    strictness: Strictness,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Calibrated> {
    let mut calibrator = Calibrator::new(gpu, &config.model, params, method)?;
    first_pictures(config, set, strictness, tell, |batch| calibrator.observe(batch))?;
    calibrator.finish()
}

/// `q_norm` of all queries that the configuration aligns, from the parameters of a model without alignment and the same pictures:
/// see [`Aligner`].
///
/// # Errors
/// As [`calibrate`].
pub fn align(
    gpu: &Gpu,
    config: &TrainConfig,
    set: &Dataset,
    params: Values,
    strictness: Strictness,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Values> {
    let mut aligner = Aligner::new(gpu, &config.model, params)?;
    first_pictures(config, set, strictness, tell, |batch| aligner.observe(batch))?;
    Ok(aligner.finish())
}

/// Shows the first pictures in the order of training, as they are and one by one.
fn first_pictures(
    config: &TrainConfig,
    set: &Dataset,
    strictness: Strictness,
    tell: &mut dyn FnMut(Event<'_>),
    mut show: impl FnMut(&Batch) -> Result<()>,
) -> Result<()> {
    let (buckets, seed) = (config.buckets(), config.seed);
    let options = LoaderOptions { batch: 1, group: 1, buckets, recipe: None, seed, threads: 1, strictness };
    let mut loader = Loader::start(Arc::new(set.images.clone()), options, 0)?;
    for _ in 0..set.images.len().min(CALIBRATION_PICTURES) {
        let batch = loader.next_batch()?;
        batch.skipped.iter().for_each(|what| tell(Event::Skipped(what)));
        show(&batch.batch)?;
    }
    Ok(())
}
