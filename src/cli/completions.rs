//! `qdetr completions`: scripts that let a shell complete our flags.

use super::{Cli, output};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use qdetr::Result;
use std::process::ExitCode;

/// Arguments of `qdetr completions`.
#[derive(Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "qdetr", &mut script);
        output::print(String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
