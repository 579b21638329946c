//! Flat arenas: many named tensors side by side in one buffer.
//!
//! The trainable parameters, their gradients and the optimizer's moments each fill an arena of the same layout, so that an
//! update is a few dispatches over flat memory, and an all-reduce over several machines would be one call on one range.

use super::params::padded;
use super::plan::Slice;
use super::{Links, Values};
use crate::gpu::{Gpu, ReadBack};
use crate::tensor::{DType, Host, TensorType};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use wgpu::{Buffer, BufferUsages};

/// Tensors begin at multiples of this many bytes: half of it, where a copy in f16 has them, is what every device allows as an
/// offset of a binding.
const ALIGN: usize = 512;

/// Which tensor lies where in an arena, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    places: BTreeMap<String, (usize, TensorType)>,
    bytes: usize,
}

impl Layout {
    /// A layout of the given tensors.
    pub fn new(tensors: impl IntoIterator<Item = (String, TensorType)>) -> Self {
        let sorted: BTreeMap<String, TensorType> = tensors.into_iter().collect();
        let mut layout = Self::default();
        for (name, ty) in sorted {
            layout.places.insert(name, (layout.bytes, ty));
            layout.bytes = (layout.bytes + ty.bytes()).next_multiple_of(ALIGN);
        }
        layout.bytes = layout.bytes.max(ALIGN);
        layout
    }

    /// Bytes of an arena of this layout: a multiple of 512, or of 256 when it is [`Layout::in_halves`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same tensors in f16, each where it lies in this layout when counted in elements.
    pub fn in_halves(&self) -> Self {
        let half = |(name, &(offset, ty)): (&String, &(usize, TensorType))| (name.clone(), (offset / 2, ty.with_dtype(DType::F16)));
        Self { places: self.places.iter().map(half).collect(), bytes: self.bytes / 2 }
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Where a tensor begins, counted in elements of four bytes.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).map(|(offset, _)| offset / 4)
    }

    /// Names, offsets in bytes and types, by name.
    pub fn places(&self) -> impl Iterator<Item = (&str, usize, TensorType)> {
        self.places.iter().map(|(name, &(offset, ty))| (name.as_str(), offset, ty))
    }
}

/// One buffer of a [`Layout`].
#[derive(Clone, Debug)]
pub struct Arena {
    layout: Arc<Layout>,
    buffer: Buffer,
}

impl Arena {
    /// An arena of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the device cannot give it, or cannot bind it whole.
    pub fn new(gpu: &Gpu, label: &str, layout: &Arc<Layout>) -> Result<Self> {
        let (bytes, most) = (layout.bytes as u64, gpu.limits().max_storage_buffer_binding_size);
        if bytes > most {
            let advice = "train a smaller model, or freeze more of this one";
            return Err(Error::OutOfMemory(format!("{label} take {bytes} bytes in one; a binding of this device holds {most}: {advice}")));
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        Ok(Self { layout: layout.clone(), buffer: gpu.buffer(label, layout.bytes, usage)? })
    }

    /// The layout.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The whole arena, to be linked to a flat tensor.
    pub fn whole(&self) -> Slice {
        Slice { buffer: self.buffer.clone(), offset: 0, size: self.layout.bytes as u64 }
    }

    /// Links for every tensor, under its name with a prefix.
    pub fn links(&self, prefix: &str) -> Links {
        let slice = |offset: usize, ty: TensorType| Slice {
            buffer: self.buffer.clone(),
            offset: offset as u64,
            size: ty.bytes().next_multiple_of(16) as u64,
        };
        self.layout.places().map(|(name, offset, ty)| (format!("{prefix}{name}"), slice(offset, ty))).collect()
    }

    /// Writes the tensors that the arena has of those given.
    ///
    /// # Panics
    /// When one is of another type.
    pub fn write(&self, gpu: &Gpu, values: &Values) {
        for (name, offset, ty) in self.layout.places() {
            if let Some(host) = values.get(name) {
                assert_eq!(host.ty(), ty, "`{name}`");
                gpu.queue().write_buffer(&self.buffer, offset as u64, &padded(host));
            }
        }
    }

    /// Reads all tensors back.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn read(&self, gpu: &Gpu) -> Result<Values> {
        let staging = ReadBack::new(gpu, self.layout.bytes)?;
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&self.buffer, 0, staging.buffer(), 0, Some(self.layout.bytes as u64));
        gpu.queue().submit([encoder.finish()]);
        staging.read(gpu, |bytes| {
            let take = |(name, offset, ty): (&str, usize, TensorType)| (name.to_owned(), Host::from_bytes(ty, &bytes[offset..]));
            self.layout.places().map(take).collect()
        })
    }
}
