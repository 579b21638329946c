//! Which kernels were measured to be faster than the default ones: one file beside the pipeline cache, by device, driver and tier, then
//! by node. A choice holds for the text of its kernel: a kernel that has changed since leaves the default in its place.

use super::shader::fingerprint;
use super::{Dispatch, Gpu, Tier, cache_folder};
use crate::files::{read_text, write_whole};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use wgpu::AdapterInfo;

/// The most that is read of a file.
const MAX_BYTES: u64 = 16 << 20;

/// The choices on all devices, as `qdetr tune` keeps them; used on a device that is opened with [`Options::tuned`](super::Options::tuned).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuned(BTreeMap<String, Choices>);

/// The choices on a device, by the names of nodes.
pub(super) type Choices = BTreeMap<String, Choice>;

/// One of a node's kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Choice {
    /// Its index; 0 is the default.
    kernel: usize,
    /// A number for its text.
    text: String,
}

impl Tuned {
    /// Where choices are kept between runs; `None` when nothing is: see [`cache_folder`].
    pub fn file() -> Option<PathBuf> {
        cache_folder().map(|folder| folder.join("tuned.json"))
    }

    /// Reads a file; without choices when there is none, or one that is not ours.
    pub fn read(path: &Path) -> Self {
        read_text(path, MAX_BYTES).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Writes the file whole, and its folder where there is none.
    ///
    /// # Errors
    /// [`Error::Io`], with the variable that names another folder.
    pub fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let made = std::fs::create_dir_all(folder).map_err(Error::io(folder));
        let written = made.and_then(|()| write_whole(path, |file| Ok(serde_json::to_writer_pretty(file, self)?)));
        written.map_err(|error| match error {
            Error::Io { source, .. } => {
                let what = format!("choices of kernels cannot be kept here ({source}); QDETR_CACHE names another folder");
                Error::io(folder)(io::Error::new(source.kind(), what))
            }
            other => other,
        })
    }

    /// Chooses the `index`-th of a node's kernels for this device; 0 takes an earlier choice back.
    pub fn choose(&mut self, gpu: &Gpu, node: String, kernels: &[Dispatch], index: usize) {
        let choices = self.0.entry(device(gpu.info(), gpu.capabilities().tier)).or_default();
        match index {
            0 => choices.remove(&node),
            _ => choices.insert(node, Choice { kernel: index, text: fingerprint([&kernels[index]]) }),
        };
    }

    /// The choices on a device.
    pub(super) fn of(mut self, info: &AdapterInfo, tier: Tier) -> Choices {
        self.0.remove(&device(info, tier)).unwrap_or_default()
    }
}

impl Gpu {
    /// Which of a node's kernels to take: the one that was chosen, or else the first.
    pub(crate) fn choice(&self, node: impl FnOnce() -> String, kernels: &[Dispatch]) -> usize {
        if self.tuned().is_empty() || kernels.len() == 1 {
            return 0;
        }
        let still_holds = |choice: &&Choice| kernels.get(choice.kernel).is_some_and(|kernel| fingerprint([kernel]) == choice.text);
        self.tuned().get(&node()).filter(still_holds).map_or(0, |choice| choice.kernel)
    }
}

/// What a choice holds on. The tier decides which kernels there are.
fn device(info: &AdapterInfo, tier: Tier) -> String {
    format!("{}, {} {}, {tier} tier", info.name, info.driver, info.driver_info)
}
