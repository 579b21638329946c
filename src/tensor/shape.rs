//! Shapes of rank 1 to 4 and the element types that shaders know.

use std::fmt;

/// Dimensions of a contiguous, row-major tensor, slowest first. Rank 1 to 4, every dimension at least 1.
///
/// ```
/// use qdetr::tensor::Shape;
/// let s = Shape::new([2, 25, 34, 256]);
/// assert_eq!(s.len(), 2 * 25 * 34 * 256);
/// assert_eq!(s.last(), 256);
/// assert_eq!(s.rows(), 2 * 25 * 34);
/// assert_eq!(s.to_string(), "[2, 25, 34, 256]");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// A shape from its dimensions.
    ///
    /// # Panics
    /// On rank 0 or above 4, on an empty dimension, and when the element count leaves 32 bits: no shader could index it.
    #[track_caller]
    pub fn new(dims: impl AsRef<[usize]>) -> Self {
        let dims = dims.as_ref();
        Self::checked(dims).unwrap_or_else(|| panic!("shape {dims:?}: want 1 to 4 dimensions, each at least 1, with a product below 2^32"))
    }

    /// As [`Shape::new`], with `None` in place of a panic: for shapes that come from files.
    pub fn checked(dims: &[usize]) -> Option<Self> {
        if dims.is_empty() || dims.len() > 4 {
            return None;
        }
        let mut len = 1usize;
        for &d in dims {
            len = len.checked_mul(d).filter(|&n| n > 0 && u32::try_from(n).is_ok())?;
        }
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Some(Self { dims: all, rank: dims.len() })
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements.
    #[expect(clippy::len_without_is_empty, reason = "no shape is empty")]
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// The last, contiguous dimension: channels, by the crate's convention.
    pub fn last(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.len() / self.last()
    }

    /// The dimensions as `[B, H, W, C]`.
    ///
    /// # Panics
    /// When the rank is not 4.
    #[track_caller]
    pub fn bhwc(&self) -> [usize; 4] {
        assert_eq!(self.rank, 4, "want [B, H, W, C], found {self}");
        self.dims
    }

    /// The dimensions as `[B, L, C]`.
    ///
    /// # Panics
    /// When the rank is not 3.
    #[track_caller]
    pub fn blc(&self) -> [usize; 3] {
        assert_eq!(self.rank, 3, "want [B, L, C], found {self}");
        [self.dims[0], self.dims[1], self.dims[2]]
    }

    /// The same shape with another last dimension.
    #[track_caller]
    pub fn with_last(&self, last: usize) -> Self {
        let mut dims = *self;
        dims.dims[self.rank - 1] = last;
        Self::new(dims.dims())
    }

    /// The shape with another first dimension.
    #[track_caller]
    pub fn with_first(&self, first: usize) -> Self {
        let mut dims = *self;
        dims.dims[0] = first;
        Self::new(dims.dims())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Element types of tensors on the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float, where the device has it.
    F16,
    /// 32-bit unsigned integer: masks, indices.
    U32,
    /// 8-bit signed integer: the codes of a quantizer of 2 to 8 bits. Four to a word on the device, the first one lowest.
    I8,
}

impl DType {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }

    /// Its name: for all but `i8`, which shaders find packed in words, that of WGSL.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
            Self::I8 => "i8",
        }
    }

    /// The WGSL name of the type.
    ///
    /// # Panics
    /// For `i8`, which WGSL does not have.
    #[track_caller]
    pub fn wgsl(self) -> &'static str {
        assert_ne!(self, Self::I8, "WGSL has no i8: bind words");
        self.name()
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Shape and element type: all that a graph knows of a value before it exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Dimensions.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

impl TensorType {
    /// A tensor type from its parts.
    #[track_caller]
    pub fn new(shape: impl AsRef<[usize]>, dtype: DType) -> Self {
        Self { shape: Shape::new(shape), dtype }
    }

    /// Shorthand for an `f32` tensor.
    #[track_caller]
    pub fn f32(shape: impl AsRef<[usize]>) -> Self {
        Self::new(shape, DType::F32)
    }

    /// The same shape in another element type.
    pub fn with_dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// Bytes the tensor takes on the device, rounded up to whole 4-byte words.
    pub fn bytes(&self) -> usize {
        (self.shape.len() * self.dtype.size()).next_multiple_of(4)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_batch_is_no_shape() {
        assert_eq!(Shape::checked(&[0, 3, 4]), None);
        assert_eq!(Shape::checked(&[]), None);
        assert_eq!(Shape::checked(&[1, 1, 1, 1, 1]), None);
        assert_eq!(Shape::checked(&[1 << 16, 1 << 16]), None);
        assert_eq!(Shape::checked(&[usize::MAX, 2]), None);
    }

    #[test]
    #[should_panic(expected = "each at least 1")]
    fn a_graph_with_an_empty_batch_cannot_be_built() {
        TensorType::f32([0, 8]);
    }
}
