//! What subcommands print with.

use indicatif::{ProgressBar, ProgressStyle};
use qdetr::{Error, Result};
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;

const STDOUT: &str = "standard output";

/// Writes to stdout. Unlike `print!` it does not panic when the reader has left: see [`is_closed_pipe`].
pub(crate) fn print(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io(STDOUT))
}

/// Writes a JSON document to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a report of ours has no maps with odd keys");
    print(format_args!("{text}\n"))
}

/// Tells before the work what would else be found out after it: there is no such folder.
pub(crate) fn check_place(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !file.is_dir() {
        return Ok(());
    }
    let what = if file.is_dir() { "is a folder; want a file" } else { "cannot be written: its folder does not exist" };
    Err(Error::Usage(format!("{} {what}", file.display())))
}

/// Whether the error is only that nobody reads our stdout any more.
pub(crate) fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { path, source } if path.as_os_str() == STDOUT && source.kind() == ErrorKind::BrokenPipe)
}

/// A progress bar on stderr; invisible when that is no terminal.
pub(crate) fn progress(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").expect("a valid template");
    ProgressBar::new(steps as u64).with_style(style)
}

/// `1.2 GB`, `34.5 MB`, `678 kB`: decimal, as disks and papers count.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1_500), "1.5 kB");
        assert_eq!(bytes(166_000_000), "166.0 MB");
        assert_eq!(bytes(2_500_000_000), "2.50 GB");
    }

    #[test]
    fn only_a_closed_stdout_is_forgiven() {
        let pipe = || std::io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&Error::io(STDOUT)(pipe())));
        assert!(!is_closed_pipe(&Error::io("results.json")(pipe())));
        assert!(!is_closed_pipe(&Error::io(STDOUT)(ErrorKind::StorageFull.into())));
    }
}
