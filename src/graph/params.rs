//! The parameters of a model on the device.

use super::Values;
use crate::gpu::Gpu;
use crate::tensor::{Host, TensorType};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use wgpu::{Buffer, BufferUsages};

/// The parameters of a model on the device, in one flat arena (more where the device limits buffer sizes). Shared by all
/// plans of the model.
#[derive(Clone, Debug)]
pub struct Params(Arc<Arena>);

#[derive(Clone, Debug)]
struct Arena {
    buffers: Vec<Buffer>,
    places: HashMap<String, Place>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    buffer: usize,
    offset: usize,
    ty: TensorType,
}

impl Params {
    /// Uploads parameters.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when they do not fit, or one alone is larger than a buffer or binding may be.
    pub fn upload(gpu: &Gpu, values: &Values) -> Result<Self> {
        Self(Arc::new(Arena { buffers: Vec::new(), places: HashMap::new(), bytes: 0 })).extend(gpu, values)
    }

    /// These parameters and further ones, in buffers beside those that are there; plans of the smaller set stay valid.
    ///
    /// # Errors
    /// As [`Params::upload`].
    pub fn extend(&self, gpu: &Gpu, values: &Values) -> Result<Self> {
        let Arena { mut buffers, mut places, bytes } = Arena::clone(&self.0);
        let align = gpu.limits().min_storage_buffer_offset_alignment as usize;
        let most = gpu.limits().max_buffer_size as usize;
        let binding = gpu.limits().max_storage_buffer_binding_size as usize;
        let first = buffers.len();
        let mut sizes = vec![0usize];
        for (name, host) in values {
            let bytes = host.ty().bytes().max(16);
            if bytes > binding.min(most) {
                return Err(Error::OutOfMemory(format!("`{name}` takes {bytes} bytes; one binding of this device holds {binding}")));
            }
            let offset = sizes.last().map_or(0, |s| s.next_multiple_of(align));
            let fits = offset + bytes <= most;
            let offset = if fits { offset } else { 0 };
            if !fits {
                sizes.push(0);
            }
            let buffer = sizes.len() - 1;
            sizes[buffer] = offset + bytes;
            places.insert(name.clone(), Place { buffer: first + buffer, offset, ty: host.ty() });
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        for size in sizes.iter().filter(|&&size| size > 0) {
            buffers.push(gpu.buffer("parameters", *size, usage)?);
        }
        for (name, host) in values {
            let place = places[name];
            gpu.queue().write_buffer(&buffers[place.buffer], place.offset as u64, &padded(host));
        }
        gpu.queue().submit([]);
        Ok(Self(Arc::new(Arena { buffers, places, bytes: bytes + sizes.iter().sum::<usize>() })))
    }

    /// Whether there is a parameter of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.places.contains_key(name)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Where a parameter lies: a buffer and an offset in it.
    ///
    /// # Panics
    /// When it was not uploaded, or with another type.
    pub(super) fn find(&self, name: &str, ty: TensorType) -> (&Buffer, u64) {
        let place = self.0.places.get(name).unwrap_or_else(|| panic!("parameter `{name}` was not uploaded"));
        assert_eq!(place.ty, ty, "parameter `{name}`");
        (&self.0.buffers[place.buffer], place.offset as u64)
    }
}

/// The bytes of a tensor in whole words, as a queue writes them.
pub(super) fn padded(host: &Host) -> Cow<'_, [u8]> {
    let bytes = host.as_bytes();
    if bytes.len().is_multiple_of(4) {
        return bytes.into();
    }
    let mut owned = bytes.to_vec();
    owned.resize(bytes.len().next_multiple_of(4), 0);
    owned.into()
}
