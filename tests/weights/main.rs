//! Checkpoints: names, files of every kind, what a model wants of them, and files made by an enemy.

mod files;
mod fit;
#[path = "../common/hashed.rs"]
mod hashed;
mod hostile_pickles;
mod hostile_safetensors;
mod hugging_face;
mod names;

use qdetr::Error;
use qdetr::weights::{Checkpoint, load};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A committed file.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden").join(name)
}

/// A folder for one test.
fn scratch() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Loads bytes from a file of the given name.
fn load_bytes(name: &str, bytes: &[u8]) -> Result<Checkpoint, Error> {
    thread_local!(static FOLDER: TempDir = scratch());
    let path = FOLDER.with(|folder| folder.path().join(name));
    std::fs::write(&path, bytes).unwrap();
    load(&path)
}

/// Why a file is refused: one line that names the file.
#[track_caller]
fn refusal(name: &str, bytes: &[u8]) -> String {
    let error = load_bytes(name, bytes).expect_err("this file should be refused");
    one_line(&error, name)
}

/// The text of an error that a user of the command sees: one line, not too long, that names the file.
#[track_caller]
fn one_line(error: &Error, file: &str) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 600, "not one line: {text}");
    assert!(text.contains(file), "does not name the file {file}: {text}");
    text
}

/// A zip archive as PyTorch writes it, with the given `data.pkl` and storages.
fn zip_of(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("archive/data.pkl", pickle);
    add("archive/byteorder", b"little");
    for (key, bytes) in storages {
        add(&format!("archive/data/{key}"), bytes);
    }
    zip.finish().unwrap().into_inner()
}
