//! Running the command as users do.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run of the command left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The command, ready for arguments.
pub(crate) fn qdetr<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qdetr"));
    command
        .args(args)
        .env("QDETR_CACHE", "")
        .env_remove("RUST_BACKTRACE")
        .env_remove("QDETR_GPU")
        .env_remove("QDETR_TUNED")
        .stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    finish(&mut qdetr(args))
}

/// Runs a prepared command to its end.
pub(crate) fn finish(command: &mut Command) -> Run {
    let output = command.output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Run {
    /// The JSON on stdout, of a run that succeeded.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.json_anyway()
    }

    /// The JSON on stdout, with nothing else there.
    #[track_caller]
    pub(crate) fn json_anyway(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A failure as users should see it: this exit code, nothing on stdout, and one line on stderr that holds all of `words`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        let lines: Vec<&str> = self.err.lines().collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        assert!(lines[0].starts_with("error: ") && !lines[0].contains("bug in qdetr"), "{self:?}");
        for word in words {
            assert!(lines[0].contains(word), "no `{word}` in {self:?}");
        }
    }
}

/// A file of `assets/`.
pub(crate) fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

/// A detector with random weights that runs in no time.
pub(crate) fn tiny_model() -> PathBuf {
    asset("golden/models/hf_basic")
}
