//! `qdetr plan`: what a run will do, step by step, and what memory it takes.

use super::DeviceArgs;
use super::model::{ModelArgs, SizeArgs};
use super::output::print;
use clap::Args;
use qdetr::Result;
use qdetr::models::Results;
use std::process::ExitCode;

/// Arguments of `qdetr plan`.
#[derive(Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    size: SizeArgs,
}

impl Plan {
    pub(crate) fn run(&self, device: &DeviceArgs) -> Result<ExitCode> {
        let model = self.model.load()?;
        let gpu = device.open_for(model.precision, model.config.quantization.is_some())?;
        let mut detector = model.detector(&gpu, Results::Answers)?;
        print(detector.plan(self.size.size())?)?;
        Ok(ExitCode::SUCCESS)
    }
}
