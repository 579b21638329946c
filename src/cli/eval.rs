//! `qdetr eval`: how good detections are, from two files and without a model.

use super::output::{print, print_json};
use clap::Args;
use qdetr::data::{Report, Strictness};
use qdetr::eval::voc::Rule;
use qdetr::{Result, eval};
use serde::Serialize;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

/// Mistakes that are named on stderr; the others are counted.
const SHOWN: usize = 10;

/// Arguments of `qdetr eval`.
#[derive(Args)]
pub(crate) struct Eval {
    /// What is there: a COCO annotation file, or the folder of a data set with one split
    #[arg(long, value_name = "PATH")]
    annotations: PathBuf,
    /// What was found: a COCO result file, a list of {image_id, category_id, bbox, score}
    #[arg(long, value_name = "FILE")]
    detections: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// PASCAL VOC's average precision as of 2010: the area under the curve
    #[arg(long, conflicts_with = "voc07")]
    voc: bool,
    /// PASCAL VOC's average precision of 2007: eleven points of the curve
    #[arg(long)]
    voc07: bool,
    /// Fail at mistakes in the annotations instead of leaving them out
    #[arg(long)]
    strict: bool,
}

impl Eval {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let strictness = if self.strict { Strictness::Fatal } else { Strictness::Skip };
        let rule = if self.voc07 { Some(Rule::Voc07) } else { self.voc.then_some(Rule::Voc10) };
        match rule {
            Some(rule) => self.show(eval::run_voc(&self.annotations, &self.detections, strictness, rule)?),
            None => self.show(eval::run(&self.annotations, &self.detections, strictness)?),
        }
    }

    fn show<T: Display + Serialize>(&self, (summary, report): (T, Report)) -> Result<ExitCode> {
        for issue in report.issues.iter().take(SHOWN) {
            eprintln!("warning: {issue}");
        }
        if report.total() > SHOWN {
            eprintln!("warning: in all {report}");
        }
        if self.json {
            print_json(&summary)?
        } else {
            print(summary)?
        }
        Ok(ExitCode::SUCCESS)
    }
}
