//! `qdetr trace`: a whole model on this GPU against the CPU twins, node by node. Where `qdetr check` is green and answers are
//! still wrong, this names the first node that differs.

use super::DeviceArgs;
use super::model::{ModelArgs, ResizeArgs};
use super::output::print;
use clap::Args;
use qdetr::Result;
use qdetr::data::image;
use qdetr::data::preprocess::{Batch, Sample};
use qdetr::graph::check::trace;
use qdetr::graph::{Values, fold, fuse_for};
use qdetr::models::{BatchSize, Results, detr};
use qdetr::nn::Precision;
use qdetr::tensor::DType;
use qdetr::tensor::compare::Tolerance;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `qdetr trace`.
#[derive(Args)]
pub(crate) struct Trace {
    /// The picture to run on
    image: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    resize: ResizeArgs,
    /// How far a value may be off, absolute and relative [default: 1e-3 in f32, 2e-2 in f16]
    #[arg(long)]
    tolerance: Option<f32>,
}

impl Trace {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let model = self.model.load()?;
        let gpu = device.open()?;
        model.precision.check(&gpu)?;
        let batch = Batch::new(&[Sample::new(&image::read(&self.image)?, self.resize.resize(&model.config)?)], None)?;
        let given = (BatchSize::of(&batch.pictures), batch.pictures.entry());
        let graph = fuse_for(&detr(&model.config, given, model.precision, Results::Everything).into_parts().0, gpu.capabilities());
        let folded = fold(&graph, &|_| false);
        let weights: Values = model.params.into_iter().map(|(name, host)| (name, host.cast(DType::F32))).collect();
        let params = folded.evaluate(&weights, &|_| true);
        let inputs = Values::from(batch.pictures.inputs().map(|(name, host)| (name.to_owned(), host.clone())));
        let off = self.tolerance.unwrap_or(if model.precision == Precision::F16 { 2e-2 } else { 1e-3 });
        let (compared, wrong) = trace(&gpu, &folded.graph, &inputs, &params, Tolerance { absolute: off, relative: off })?;
        match &wrong {
            None => print(format_args!("all {compared} nodes agree with their CPU twins within {off:e}\n"))?,
            Some(what) => print(format_args!("the first {compared} nodes agree, then {what}\n"))?,
        }
        Ok(if wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
