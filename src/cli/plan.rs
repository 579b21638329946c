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
        let mut detector = self.model.load()?.detector(&device.open_for(self.model.precision)?, Results::Answers)?;
        print(detector.plan(self.size.size())?)?;
        Ok(ExitCode::SUCCESS)
    }
}
