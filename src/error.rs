//! What a user can cause, said so that the user can mend it.
//!
//! Mistakes of a programmer (a wrong shape, a missing wire) panic while a graph is built. Everything that
//! depends on the world outside (files, flags, adapters, memory, pictures) is an [`Error`] that says what was
//! expected, what was found, and what to do.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong through no fault of the program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file was read, but is not what it should be: truncated, lying about its size, of another format.
    #[error("{path}: {what}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// Tensors of a checkpoint do not fit the model: the message lists them by name.
    #[error("{path}: the weights do not fit the model\n{what}", path = .path.display())]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// Missing, extra and misshapen tensors, one a line.
        what: String,
    },
    /// A configuration that no model or run can have.
    #[error("configuration: {0}")]
    Config(String),
    /// A wrong flag or combination of flags; the process ends with exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No usable GPU, or not the one that was asked for.
    #[error("no usable GPU: {0}")]
    Adapter(String),
    /// The device has less memory than the plan needs.
    #[error("out of GPU memory: {0}")]
    OutOfMemory(String),
    /// The device was lost (driver reset, unplugged, watchdog).
    #[error(
        "the GPU device was lost: {0}; a dispatch may have run too long for this system's watchdog, or the driver failed: run `qdetr check`, or choose another adapter with --gpu"
    )]
    DeviceLost(String),
    /// The driver refused something that should be valid, a shader above all.
    #[error("the GPU driver failed: {0}")]
    Driver(String),
    /// A number that should be finite is not.
    #[error("{0}")]
    NotFinite(String),
}

impl Error {
    /// An [`Error::Io`] with the path that `std::io::Error` forgets.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Format`].
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// The exit code of the command line: 2 for wrong usage, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}
