//! The log of a run: a line of JSON for every step and evaluation, and the curves that are drawn of it.

use super::curves::Curves;
use super::trainer::StepReport;
use crate::eval::Summary;
use crate::{Error, Result, files};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Curves of short epochs are drawn less often.
const DRAW_EVERY: Duration = Duration::from_secs(10);

/// One line of the log.
#[derive(Clone, Debug, Serialize)]
pub struct StepLine {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step since the start of training, from 0.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Learning rate of the transformer.
    pub lr: f32,
    /// What the loss was multiplied with for its gradient's sake.
    pub loss_scale: f32,
    /// Losses, norm and times.
    #[serde(flatten)]
    pub report: StepReport,
    /// Seconds waited for data in this step.
    pub waited: f64,
    /// Seconds since the run began.
    pub seconds: f64,
    /// Megabytes of this process in host memory, where the system says so (Linux).
    pub host_mb: Option<f64>,
    /// Megabytes allocated on the device, where its back end counts them (Vulkan, DX12).
    pub device_mb: Option<f64>,
}

/// The log, open for more.
pub(super) struct Log {
    file: File,
    path: PathBuf,
    curves: Curves,
    drawn: Option<Instant>,
}

impl Log {
    /// Opens the log of a folder, without what was written of this step and later ones: it will be done again.
    pub(super) fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join("log.jsonl");
        let mut curves = Curves::default();
        if path.is_file() {
            let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
            let is_before = |line: &&str| {
                // A line that was cut short is none.
                let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
                line.is_some_and(|line| {
                    let is_before = is_before(&line, step);
                    if is_before {
                        curves.add_line(&line);
                    }
                    is_before
                })
            };
            let kept: Vec<&str> = text.lines().filter(is_before).collect();
            files::write_whole(&path, |file| kept.iter().try_for_each(|line| writeln!(file, "{line}")))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { file, path, curves, drawn: None })
    }

    /// Writes the line of a step.
    pub(super) fn step(&mut self, line: &StepLine) -> Result<()> {
        self.curves.add_step(line.step, line.report.losses.total, line.lr);
        self.write(line)
    }

    /// Writes the line of an evaluation behind so many steps.
    pub(super) fn evaluation(&mut self, epoch: u64, step: u64, summary: &Summary) -> Result<()> {
        self.curves.add_scores(step, [summary.ap, summary.ap50]);
        self.write(&serde_json::json!({ "epoch": epoch, "step": step, "validation": summary }))
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|e| Error::Config(e.to_string()))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Draws the curves beside the log.
    pub(super) fn draw(&mut self) -> Result<()> {
        self.drawn = Some(Instant::now());
        self.curves.write(&self.path.with_file_name("curves.png"))
    }

    /// As [`Log::draw`], but not soon after the last time.
    pub(super) fn draw_now_and_then(&mut self) -> Result<()> {
        if self.drawn.is_some_and(|last| last.elapsed() < DRAW_EVERY) { Ok(()) } else { self.draw() }
    }
}

/// Whether a line tells of something before a step. That of an evaluation has the number of steps before it.
fn is_before(line: &serde_json::Value, step: u64) -> bool {
    let reach = if line["validation"].is_null() { 1 } else { 0 };
    step > 0 && line["step"].as_u64().is_some_and(|s| s + reach <= step)
}

/// Megabytes of this process in memory, where the system has Linux's `/proc`.
pub(super) fn host_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_what_will_not_be_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let step = |s: u64| format!("{{\"step\":{s},\"lr\":0.5,\"losses\":{{\"total\":2.0}}}}\n");
        let score = "{\"step\":2,\"validation\":{\"AP\":0.25,\"AP50\":0.5}}\n";
        let written = format!("{}{}{score}{}{{\"step\":3,\"lo", step(0), step(1), step(2));
        for (from, kept) in [(0, String::new()), (1, step(0)), (2, format!("{}{}{score}", step(0), step(1)))] {
            fs::write(&path, &written).unwrap();
            let mut log = Log::open(folder.path(), from).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), kept, "{from}");
            log.draw().unwrap();
            assert!(image::open(folder.path().join("curves.png")).is_ok());
        }
    }

    #[test]
    fn the_resident_set_is_that_of_a_process() {
        if let Some(mb) = host_mb() {
            assert!((0.5..1e6).contains(&mb), "{mb}");
        }
    }
}
