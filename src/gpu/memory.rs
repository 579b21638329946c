//! Buffers: creation with typed errors, and reading back.

use super::Gpu;
use crate::{Error, Result};
use wgpu::{Buffer, BufferDescriptor, BufferUsages, MapMode};

impl Gpu {
    /// Bytes allocated on the device now, where its back end counts them: Vulkan and DX12. What was dropped counts until the device
    /// has been waited for.
    pub fn allocated(&self) -> Option<u64> {
        self.device().generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// A buffer of at least 16 bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the device cannot give it, with its size.
    pub fn buffer(&self, label: &str, bytes: usize, usage: BufferUsages) -> Result<Buffer> {
        let size = (bytes.next_multiple_of(4).max(16)) as u64;
        let limit = self.limits().max_buffer_size;
        if size > limit {
            return Err(Error::OutOfMemory(format!("`{label}` needs a buffer of {size} bytes; this device allows {limit}")));
        }
        let held = || self.allocated().unwrap_or_else(|| self.counters().bytes_allocated());
        if let Some(most) = self.most_memory().filter(|most| held() + size > *most) {
            return Err(Error::OutOfMemory(format!("`{label}` needs {size} bytes beside {} already allocated, of {most}", held())));
        }
        let scope = self.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device().create_buffer(&BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false });
        if let Some(error) = pollster::block_on(scope.pop()) {
            let held = held();
            return Err(Error::OutOfMemory(format!("`{label}` needs {size} bytes beside {held} already allocated ({error})")));
        }
        self.counters().add_buffer(size);
        Ok(buffer)
    }
}

/// A staging buffer for reading results back: made once, used every run.
#[derive(Debug)]
pub struct ReadBack {
    staging: Buffer,
}

impl ReadBack {
    /// A staging buffer of the given size.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        Ok(Self { staging: gpu.buffer("read back", bytes, BufferUsages::COPY_DST | BufferUsages::MAP_READ)? })
    }

    /// The buffer to copy results into.
    pub fn buffer(&self) -> &Buffer {
        &self.staging
    }

    /// Waits for the submitted work and gives the staging buffer's bytes to `read`.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Driver`] when the work did not finish.
    pub fn read<T>(&self, gpu: &Gpu, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        gpu.counters().add_read_back();
        self.staging.map_async(MapMode::Read, .., |_| {});
        gpu.wait()?;
        let view = self.staging.get_mapped_range(..).map_err(|e| gpu.failure(&format!("mapping a buffer failed: {e}")))?;
        let value = read(&view);
        drop(view);
        self.staging.unmap();
        Ok(value)
    }
}
