//! Reading and writing small things safely: bounded reads, and files that appear only when they are complete.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

/// The whole text of a regular file of at most `limit` bytes, without a byte-order mark.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Format`] when it is a folder or a device, larger than `limit` or not UTF-8.
pub fn read_text(path: impl AsRef<Path>, limit: u64) -> Result<String> {
    let path = path.as_ref();
    // Asked before opening: opening a named pipe would wait for a writer.
    if !fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::format(path, "expected a file, found a folder or a device"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(Error::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::format(path, format!("larger than {limit} bytes, the most that is read of such a file")));
    }
    let mut text = String::from_utf8(bytes)
        .map_err(|e| Error::format(path, format!("not UTF-8 text: byte {} is wrong; save it as UTF-8", e.utf8_error().valid_up_to())))?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// Writes a file beside `path` and renames it when it is complete and on the disk: what was there before stays until then.
///
/// # Errors
/// [`Error::Io`]; nothing is left behind.
pub fn write_whole(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let mut beside = path.file_name().unwrap_or_default().to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = File::create(&beside).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        // Already failing: the first error is the one to tell, and there may be no file to remove.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(Error::io(path))
}

/// Removes what a killed [`write_whole`] has left in a folder.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn remove_parts(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let mut ends = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().rsplit('.');
        let is_part = ends.next() == Some("part") && ends.next().is_some_and(|id| id.parse::<u32>().is_ok());
        if is_part && path.is_file() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_bounded_and_lose_the_byte_order_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "\u{feff}abc").unwrap();
        assert_eq!(read_text(&path, 6).unwrap(), "abc");
        assert!(matches!(read_text(&path, 5), Err(Error::Format { .. })));
        assert!(matches!(read_text(folder.path(), 5), Err(Error::Format { .. })));
        assert!(matches!(read_text(folder.path().join("none"), 5), Err(Error::Io { .. })));
        fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(read_text(&path, 5).unwrap_err().to_string().contains("byte 1"));
    }

    #[test]
    fn only_what_a_killed_write_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["last.safetensors.4711.part", "mine.part", "log.jsonl", "part"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_parts(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["log.jsonl", "mine.part", "part"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_whole(&path, |w| w.write_all(b"old")).unwrap();
        let failed = write_whole(&path, |w| w.write_all(b"new").and_then(|()| Err(io::Error::other("full"))));
        assert!(failed.unwrap_err().to_string().contains("full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
