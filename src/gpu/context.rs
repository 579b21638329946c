//! The opened device.

use super::pipeline::{DiskCache, Pipeline};
use super::tuned::{Choices, Tuned};
use super::{Capabilities, Select, Tier, adapter};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wgpu::{AdapterInfo, Device, DeviceType, ExperimentalFeatures, Limits, Queue};

/// How long a wait stays awake, as CUDA's does: longer than a batch of pictures takes. A thread that sleeps wakes late, and on a processor that is
/// slow to encode the next run: `qdetr bench model --preset detr-resnet50 --precision f16 --bits 4-4-8` took 7.9 ms asleep and 7.6 awake for
/// eight pictures, 2.10 and 2.0 for one (H100, 2026-11-26).
const AWAKE: Duration = Duration::from_millis(20);

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which GPU.
    pub select: Select,
    /// The best tier to use; `None` for the best that the device has.
    pub tier: Option<Tier>,
    /// Keep wgpu's run-time checks (bounds, endless loops) in shaders. They cost speed; tests keep them.
    pub checked: bool,
    /// Do not read or write the pipeline cache on disk.
    pub no_disk_cache: bool,
    /// Only WebGPU's default limits and no extensions: what the portable tier must run on.
    pub webgpu_only: bool,
    /// Refuse buffers beyond so many bytes in all, as a device with less memory does.
    pub most_memory: Option<u64>,
    /// Take the kernels that this file names for the device: [`Tuned::file`] is that of `qdetr tune`. `None` for the fixed default, which
    /// repeats everywhere.
    pub tuned: Option<PathBuf>,
}

/// One opened GPU. Cheap to clone; all clones are the same device.
#[derive(Clone, Debug)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Device,
    queue: Queue,
    info: AdapterInfo,
    limits: Limits,
    capabilities: Capabilities,
    checked: bool,
    most_memory: Option<u64>,
    pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    disk: DiskCache,
    tuned: Choices,
    failure: Arc<Mutex<Option<Failure>>>,
    counters: Counters,
}

/// The first thing that went wrong on the device, kept until somebody waits for its work.
#[derive(Clone, Debug)]
enum Failure {
    Lost(String),
    OutOfMemory(String),
    Other(String),
}

impl Gpu {
    /// Opens a device with all that its adapter offers and this crate uses.
    ///
    /// # Errors
    /// [`Error::Adapter`] without a usable GPU, [`Error::Usage`] when the selection matches none.
    pub fn open(options: &Options) -> Result<Self> {
        let adapter = adapter::choose(&options.select)?;
        let info = adapter.get_info();
        let mut capabilities = if options.webgpu_only { Capabilities::WEBGPU } else { Capabilities::of(&adapter) };
        if let Some(tier) = options.tier {
            if !capabilities.allows(tier) {
                return Err(Error::Usage(format!("{} has no {tier} tier; its best is {}", info.name, capabilities.tier)));
            }
            capabilities.tier = tier;
        }
        let limits = if options.webgpu_only { Limits::default() } else { adapter.limits() };
        let mut features = capabilities.features();
        features.set(wgpu::Features::PIPELINE_CACHE, !options.webgpu_only && adapter.features().contains(wgpu::Features::PIPELINE_CACHE));
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("qdetr"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: experimental(capabilities.matrix),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Adapter(format!("{} ({:?}) could not be opened: {e}", info.name, info.backend)))?;
        let failure = watch(&device);
        let disk = DiskCache::open(&device, &info, options.no_disk_cache);
        let tuned = options.tuned.as_deref().map(|path| Tuned::read(path).of(&info, capabilities.tier)).unwrap_or_default();
        let inner = Inner {
            device,
            queue,
            info,
            limits,
            capabilities,
            checked: options.checked,
            most_memory: options.most_memory,
            pipelines: Mutex::default(),
            disk,
            tuned,
            failure,
            counters: Counters::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The wgpu device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// Name, driver and back end.
    pub fn info(&self) -> &AdapterInfo {
        &self.0.info
    }

    /// The limits the device was opened with.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What kernels may use.
    pub fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    /// Always-on counters of what was created and submitted.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    pub(super) fn checked(&self) -> bool {
        self.0.checked
    }

    pub(super) fn most_memory(&self) -> Option<u64> {
        self.0.most_memory
    }

    pub(super) fn pipelines(&self) -> &Mutex<HashMap<String, Arc<Pipeline>>> {
        &self.0.pipelines
    }

    pub(crate) fn disk(&self) -> &DiskCache {
        &self.0.disk
    }

    pub(super) fn tuned(&self) -> &Choices {
        &self.0.tuned
    }

    /// Waits for all submitted work: awake at first, then asleep.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Driver`]: the first failure since the last wait.
    pub fn wait(&self) -> Result<()> {
        self.wait_awake();
        let polled = self.0.device.poll(wgpu::PollType::wait_indefinitely());
        self.take_failure()?;
        polled.map(|_| ()).map_err(|e| self.failure(&format!("waiting for the device failed: {e}")))
    }

    /// Asks again and again whether the work is done, for as long as [`AWAKE`], and lets other threads go first. Not on a device that is
    /// this very processor, which it needs for the work.
    fn wait_awake(&self) {
        if self.0.info.device_type == DeviceType::Cpu {
            return;
        }
        let until = Instant::now() + AWAKE;
        let is_busy = || matches!(self.0.device.poll(wgpu::PollType::Poll), Ok(status) if !status.is_queue_empty());
        while Instant::now() < until && is_busy() {
            std::thread::yield_now();
        }
    }

    /// The failure on record, if any.
    pub(crate) fn take_failure(&self) -> Result<()> {
        let failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match failure {
            None => Ok(()),
            Some(Failure::Lost(what)) => Err(Error::DeviceLost(what)),
            Some(Failure::OutOfMemory(what)) => Err(Error::OutOfMemory(what)),
            Some(Failure::Other(what)) => Err(Error::Driver(what)),
        }
    }

    /// The failure on record, or else the given one.
    pub(super) fn failure(&self, otherwise: &str) -> Error {
        self.take_failure().err().unwrap_or_else(|| Error::Driver(otherwise.to_owned()))
    }
}

fn experimental(matrix: bool) -> ExperimentalFeatures {
    if !matrix {
        return ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu asks for this word because experimental features may have bugs that lead to undefined behaviour.
    // The only one requested is cooperative matrices, in shaders of this crate whose indices are in bounds by construction
    // and which `qdetr check` compares with their CPU twins.
    unsafe { ExperimentalFeatures::enabled() }
}

/// Turns device loss and uncaptured errors, which wgpu reports out of band, into a failure on record.
fn watch(device: &Device) -> Arc<Mutex<Option<Failure>>> {
    let record: Arc<Mutex<Option<Failure>>> = Arc::default();
    let keep_first = |record: &Mutex<Option<Failure>>, failure| {
        record.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    };
    let lost = record.clone();
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            keep_first(&lost, Failure::Lost(message));
        }
    });
    let errors = record.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let failure = match &error {
            wgpu::Error::OutOfMemory { .. } => Failure::OutOfMemory(error.to_string()),
            _ => Failure::Other(error.to_string()),
        };
        keep_first(&errors, failure);
    }));
    record
}

/// What was created and submitted since the device was opened: a test reads these to prove that a run allocates and
/// compiles nothing.
#[derive(Debug, Default)]
pub struct Counters {
    buffers: AtomicU64,
    bytes: AtomicU64,
    pipelines: AtomicU64,
    bind_groups: AtomicU64,
    submits: AtomicU64,
    dispatches: AtomicU64,
    read_backs: AtomicU64,
}

macro_rules! counter {
    ($($(#[$doc:meta])* $get:ident, $add:ident, $field:ident;)*) => {
        impl Counters {
            $($(#[$doc])*
            pub fn $get(&self) -> u64 {
                self.$field.load(Ordering::Relaxed)
            }

            pub(crate) fn $add(&self) {
                self.$field.fetch_add(1, Ordering::Relaxed);
            })*
        }
    };
}

counter! {
    /// Pipelines compiled.
    pipelines, add_pipeline, pipelines;
    /// Bind groups created.
    bind_groups, add_bind_group, bind_groups;
    /// Submissions.
    submits, add_submit, submits;
    /// Times that results were mapped and read by the host.
    read_backs, add_read_back, read_backs;
}

impl Counters {
    /// Buffers created.
    pub fn buffers(&self) -> u64 {
        self.buffers.load(Ordering::Relaxed)
    }

    /// Bytes of all buffers created.
    pub fn bytes_allocated(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Kernel launches.
    pub fn dispatches(&self) -> u64 {
        self.dispatches.load(Ordering::Relaxed)
    }

    pub(super) fn add_buffer(&self, bytes: u64) {
        self.buffers.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_dispatches(&self, n: usize) {
        self.dispatches.fetch_add(n as u64, Ordering::Relaxed);
    }
}
