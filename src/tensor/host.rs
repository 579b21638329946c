//! Tensors in host memory: inputs, outputs, weights, and what the CPU twins compute on.

use super::{DType, Shape, TensorType};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
use std::sync::Arc;

/// The elements of a [`Host`] tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// 32-bit unsigned integers.
    U32(Vec<u32>),
    /// 8-bit signed integers.
    I8(Vec<i8>),
}

/// A contiguous, row-major tensor in host memory. Cheap to clone: clones share their elements, which never change.
#[derive(Clone, PartialEq)]
pub struct Host {
    shape: Shape,
    data: Arc<Data>,
}

impl Host {
    /// A tensor from its elements.
    ///
    /// # Panics
    /// When the number of elements is not the shape's.
    #[track_caller]
    pub fn new(shape: impl AsRef<[usize]>, data: Data) -> Self {
        let shape = Shape::new(shape);
        let len = match &data {
            Data::F32(v) => v.len(),
            Data::F16(v) => v.len(),
            Data::U32(v) => v.len(),
            Data::I8(v) => v.len(),
        };
        assert_eq!(len, shape.len(), "{shape} needs {} elements, found {len}", shape.len());
        Self { shape, data: Arc::new(data) }
    }

    /// An `f32` tensor.
    #[track_caller]
    pub fn f32(shape: impl AsRef<[usize]>, data: Vec<f32>) -> Self {
        Self::new(shape, Data::F32(data))
    }

    /// A `u32` tensor.
    #[track_caller]
    pub fn u32(shape: impl AsRef<[usize]>, data: Vec<u32>) -> Self {
        Self::new(shape, Data::U32(data))
    }

    /// An `i8` tensor.
    #[track_caller]
    pub fn i8(shape: impl AsRef<[usize]>, data: Vec<i8>) -> Self {
        Self::new(shape, Data::I8(data))
    }

    /// A tensor of any type whose elements are the given floats, rounded to the type.
    #[track_caller]
    pub fn from_f32(ty: TensorType, data: Vec<f32>) -> Self {
        Self::f32(ty.shape.dims(), data).cast(ty.dtype)
    }

    /// Zeros.
    pub fn zeros(ty: TensorType) -> Self {
        let n = ty.shape.len();
        let data = match ty.dtype {
            DType::F32 => Data::F32(vec![0.0; n]),
            DType::F16 => Data::F16(vec![f16::ZERO; n]),
            DType::U32 => Data::U32(vec![0; n]),
            DType::I8 => Data::I8(vec![0; n]),
        };
        Self { shape: ty.shape, data: Arc::new(data) }
    }

    /// A tensor from the bytes a device buffer holds; excess bytes at the end (padding to whole words) are dropped.
    #[track_caller]
    pub fn from_bytes(ty: TensorType, bytes: &[u8]) -> Self {
        let bytes = &bytes[..ty.shape.len() * ty.dtype.size()];
        let data = match ty.dtype {
            DType::F32 => Data::F32(bytemuck::pod_collect_to_vec(bytes)),
            DType::F16 => Data::F16(bytemuck::pod_collect_to_vec(bytes)),
            DType::U32 => Data::U32(bytemuck::pod_collect_to_vec(bytes)),
            DType::I8 => Data::I8(bytemuck::pod_collect_to_vec(bytes)),
        };
        Self { shape: ty.shape, data: Arc::new(data) }
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match *self.data {
            Data::F32(_) => DType::F32,
            Data::F16(_) => DType::F16,
            Data::U32(_) => DType::U32,
            Data::I8(_) => DType::I8,
        }
    }

    /// Shape and element type.
    pub fn ty(&self) -> TensorType {
        TensorType { shape: self.shape, dtype: self.dtype() }
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements as `f32`, converted when they are `f16`.
    ///
    /// # Panics
    /// When the tensor holds integers.
    #[track_caller]
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match &*self.data {
            Data::F32(v) => Cow::Borrowed(v),
            Data::F16(v) => Cow::Owned(v.to_f32_vec()),
            Data::U32(_) | Data::I8(_) => panic!("a {} tensor holds no floats", self.ty()),
        }
    }

    /// The elements as `u32`.
    ///
    /// # Panics
    /// When the tensor holds others.
    #[track_caller]
    pub fn as_u32(&self) -> &[u32] {
        match &*self.data {
            Data::U32(v) => v,
            _ => panic!("a {} tensor holds no u32", self.ty()),
        }
    }

    /// The elements as `i8`.
    ///
    /// # Panics
    /// When the tensor holds others.
    #[track_caller]
    pub fn as_i8(&self) -> &[i8] {
        match &*self.data {
            Data::I8(v) => v,
            _ => panic!("a {} tensor holds no i8", self.ty()),
        }
    }

    /// The elements as bytes, without padding.
    pub fn as_bytes(&self) -> &[u8] {
        match &*self.data {
            Data::F32(v) => bytemuck::cast_slice(v),
            Data::F16(v) => bytemuck::cast_slice(v),
            Data::U32(v) => bytemuck::cast_slice(v),
            Data::I8(v) => bytemuck::cast_slice(v),
        }
    }

    /// The same floats in another float type; integers stay integers.
    ///
    /// # Panics
    /// When asked to turn floats into integers or the reverse.
    #[track_caller]
    pub fn cast(self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self;
        }
        let floats = self.to_f32();
        let data = match dtype {
            DType::F32 => Data::F32(floats.into_owned()),
            DType::F16 => {
                let mut halves = vec![f16::ZERO; floats.len()];
                halves.convert_from_f32_slice(&floats);
                Data::F16(halves)
            }
            DType::U32 | DType::I8 => panic!("a {} tensor cannot be cast to {dtype}", self.ty()),
        };
        Self { shape: self.shape, data: Arc::new(data) }
    }

    /// The same elements under another shape.
    #[track_caller]
    pub fn reshape(self, shape: impl AsRef<[usize]>) -> Self {
        let to = Shape::new(shape);
        assert_eq!(self.shape.len(), to.len(), "{to} needs {} elements, found {}", to.len(), self.shape);
        Self { shape: to, ..self }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.ty())
    }
}
