//! A tensor as it lies in a file: bytes, element type, strides; and the one place where PyTorch's layout becomes ours and back.
//!
//! PyTorch keeps a convolution's weight as `[out, in/groups, kh, kw]`, we keep it as `[out, kh, kw, in/groups]`. Every tensor of
//! rank 4 in a DETR is such a weight; all others are the same in both.

use crate::tensor::{Data, Host, Shape};
use half::{bf16, f16};

/// Element types that checkpoints hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    U32,
    /// Known by name and size, never converted: integers other than `u32`, booleans, exotic floats.
    Other {
        name: &'static str,
        size: usize,
    },
}

impl Element {
    /// Bytes an element takes.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other { size, .. } => size,
        }
    }
}

/// A strided view of a storage in a file, checked to lie inside it.
#[derive(Clone, Debug)]
pub(super) struct RawTensor<'a> {
    bytes: &'a [u8],
    element: Element,
    /// In elements.
    offset: usize,
    dims: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
}

impl<'a> RawTensor<'a> {
    /// A view of a storage's bytes, in PyTorch's layout; offset and strides count elements.
    ///
    /// # Errors
    /// When the view leaves the storage, in words that follow the tensor's name.
    pub(super) fn strided(bytes: &'a [u8], element: Element, offset: usize, dims: Vec<usize>, strides: Vec<usize>) -> Result<Self, String> {
        if dims.len() != strides.len() {
            return Err(format!("has {} dimensions and {} strides", dims.len(), strides.len()));
        }
        let end = dims.iter().zip(&strides).try_fold(offset, |end, (&d, &s)| end.checked_add(d.saturating_sub(1).checked_mul(s)?));
        let held = bytes.len() / element.size();
        match end {
            Some(end) if end < held || dims.contains(&0) => Ok(Self { bytes, element, offset, dims, strides }),
            _ => Err(format!("of shape {} reaches beyond its storage of {held} elements", listed(&dims))),
        }
    }

    /// A contiguous tensor that is all of its bytes.
    ///
    /// # Errors
    /// As [`RawTensor::strided`].
    pub(super) fn contiguous(bytes: &'a [u8], element: Element, dims: Vec<usize>) -> Result<Self, String> {
        let mut strides = vec![1; dims.len()];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = dims[i].saturating_mul(strides[i]);
        }
        Self::strided(bytes, element, 0, dims, strides)
    }

    /// The element type.
    pub(super) fn element(&self) -> Element {
        self.element
    }

    /// The bytes of the storage: of a tensor in a safetensors file, its own.
    pub(super) fn storage(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the elements when written out, `None` when that overflows.
    pub(super) fn bytes(&self) -> Option<usize> {
        self.dims.iter().try_fold(self.element.size(), |n, &d| n.checked_mul(d))
    }

    /// One of three equal blocks of rows.
    ///
    /// # Errors
    /// When the rows do not divide by three.
    pub(super) fn third(&self, index: usize) -> Result<Self, String> {
        let rows = self.dims.first().copied().filter(|&rows| rows > 0 && rows.is_multiple_of(3));
        let Some(rows) = rows else {
            return Err(format!("of shape {} does not split into query, key and value", listed(&self.dims)));
        };
        let mut third = self.clone();
        third.dims[0] = rows / 3;
        third.offset += index * (rows / 3) * self.strides[0];
        Ok(third)
    }

    /// The tensor in our layout; `f16` stays, `bf16` and `f64` become `f32`.
    ///
    /// # Errors
    /// When the shape or the element type is none that we have, in words that follow the tensor's name.
    pub(super) fn to_host(&self) -> Result<Host, String> {
        let order = if self.dims.len() == 4 { vec![0, 2, 3, 1] } else { (0..self.dims.len()).collect() };
        let permuted = |values: &[usize]| order.iter().map(|&i| values[i]).collect::<Vec<_>>();
        let (dims, strides) = (permuted(&self.dims), permuted(&self.strides));
        if Shape::checked(&dims).is_none() {
            return Err(format!("has shape {}; want 1 to 4 dimensions, each at least 1, below 2^32 elements", listed(&self.dims)));
        }
        let bytes = self.bytes;
        let data = match self.element {
            Element::F32 => Data::F32(gather(&dims, &strides, self.offset, |i| f32::from_le_bytes(word(bytes, i)))),
            Element::F16 => Data::F16(gather(&dims, &strides, self.offset, |i| f16::from_le_bytes(word(bytes, i)))),
            Element::Bf16 => Data::F32(gather(&dims, &strides, self.offset, |i| bf16::from_le_bytes(word(bytes, i)).to_f32())),
            Element::F64 => Data::F32(gather(&dims, &strides, self.offset, |i| f64::from_le_bytes(word(bytes, i)) as f32)),
            Element::U32 => Data::U32(gather(&dims, &strides, self.offset, |i| u32::from_le_bytes(word(bytes, i)))),
            Element::Other { name, .. } => return Err(format!("holds {name} values; want floats (F32, F16, BF16 or F64)")),
        };
        Ok(Host::new(dims, data))
    }
}

/// Dimensions of a tensor of ours in PyTorch's order.
pub(super) fn torch_dims(shape: Shape) -> Vec<usize> {
    match *shape.dims() {
        [o, h, w, i] => vec![o, i, h, w],
        ref dims => dims.to_vec(),
    }
}

/// The elements of a tensor of ours in PyTorch's order, little-endian.
pub(super) fn torch_bytes(tensor: &Host) -> Vec<u8> {
    let (dims, strides) = match *tensor.shape().dims() {
        [o, h, w, i] => (vec![o, i, h, w], vec![h * w * i, 1, w * i, i]),
        ref dims => (vec![dims.iter().product()], vec![1]),
    };
    match tensor.data() {
        Data::F32(v) => gather(&dims, &strides, 0, |i| v[i].to_le_bytes()).into_flattened(),
        Data::F16(v) => gather(&dims, &strides, 0, |i| v[i].to_le_bytes()).into_flattened(),
        Data::U32(v) => gather(&dims, &strides, 0, |i| v[i].to_le_bytes()).into_flattened(),
        Data::I8(v) => gather(&dims, &strides, 0, |i| v[i].to_le_bytes()).into_flattened(),
    }
}

/// Element `index` of a storage.
fn word<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
    let mut word = [0; N];
    word.copy_from_slice(&bytes[index * N..][..N]);
    word
}

/// Walks a strided view of rank 1 to 4 in row-major order.
fn gather<T>(dims: &[usize], strides: &[usize], offset: usize, element: impl Fn(usize) -> T) -> Vec<T> {
    let mut d = [1; 4];
    let mut s = [0; 4];
    d[4 - dims.len()..].copy_from_slice(dims);
    s[4 - dims.len()..].copy_from_slice(strides);
    let mut all = Vec::with_capacity(d.iter().product());
    for a in 0..d[0] {
        for b in 0..d[1] {
            for c in 0..d[2] {
                let row = offset + a * s[0] + b * s[1] + c * s[2];
                all.extend((0..d[3]).map(|i| element(row + i * s[3])));
            }
        }
    }
    all
}

/// Dimensions from a file, which may be many: `[2, 3]`, with the tail left out.
pub(super) fn listed(dims: &[usize]) -> String {
    match dims {
        [head @ .., _] if dims.len() > 8 => format!("{:?} and {} more", &head[..8], dims.len() - 8),
        _ => format!("{dims:?}"),
    }
}

/// A name from a file, as it may be printed: on one line, in backquotes, not too long.
pub(super) fn quoted(name: &str) -> String {
    const LONGEST: usize = 120;
    let plain: String = name.escape_debug().take(LONGEST + 1).collect();
    match plain.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("`{}…`", &plain[..cut]),
        None => format!("`{plain}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    #[test]
    fn a_convolution_is_transposed_to_channels_last_and_back() {
        let storage = bytes(2 * 3 * 4 * 5);
        let raw = RawTensor::contiguous(&storage, Element::F32, vec![2, 3, 4, 5]).unwrap();
        let host = raw.to_host().unwrap();
        assert_eq!(host.shape().dims(), [2, 4, 5, 3]);
        let ours = host.to_f32();
        for (o, i, h, w) in [(0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 2, 3), (0, 2, 1, 0)] {
            let torch = ((o * 3 + i) * 4 + h) * 5 + w;
            assert_eq!(ours[((o * 4 + h) * 5 + w) * 3 + i], torch as f32);
        }
        assert_eq!(torch_dims(host.shape()), [2, 3, 4, 5]);
        assert_eq!(torch_bytes(&host), storage);
    }

    #[test]
    fn a_third_is_a_block_of_rows() {
        let storage = bytes(12);
        let raw = RawTensor::contiguous(&storage, Element::F32, vec![6, 2]).unwrap();
        assert_eq!(raw.third(1).unwrap().to_host().unwrap(), Host::f32([2, 2], vec![4.0, 5.0, 6.0, 7.0]));
        assert!(RawTensor::contiguous(&storage, Element::F32, vec![4, 3]).unwrap().third(0).is_err());
        assert!(RawTensor::contiguous(&storage, Element::F32, vec![]).unwrap().third(0).is_err());
    }

    #[test]
    fn strides_are_followed_and_kept_inside_the_storage() {
        let storage = bytes(6);
        let transposed = RawTensor::strided(&storage, Element::F32, 0, vec![3, 2], vec![1, 3]).unwrap();
        assert_eq!(transposed.to_host().unwrap(), Host::f32([3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
        assert!(RawTensor::strided(&storage, Element::F32, 1, vec![3, 2], vec![1, 3]).is_err());
        assert!(RawTensor::strided(&storage, Element::F32, 0, vec![usize::MAX, 2], vec![usize::MAX, 1]).is_err());
        assert!(RawTensor::strided(&storage, Element::F32, usize::MAX, vec![2], vec![1]).is_err());
        assert!(RawTensor::strided(&storage, Element::F32, 0, vec![2], vec![1, 1]).is_err());
        assert!(RawTensor::strided(&[], Element::F32, 0, vec![1], vec![1]).is_err());
    }

    #[test]
    fn wide_and_narrow_floats_become_ours() {
        let wide: Vec<u8> = [0.5f64, -3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let brain: Vec<u8> = [0.5f32, -3.0].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        for (storage, element) in [(&wide, Element::F64), (&brain, Element::Bf16)] {
            let host = RawTensor::contiguous(storage, element, vec![2]).unwrap().to_host().unwrap();
            assert_eq!(host, Host::f32([2], vec![0.5, -3.0]));
        }
        let half: Vec<u8> = f16::from_f32(0.5).to_le_bytes().to_vec();
        let host = RawTensor::contiguous(&half, Element::F16, vec![1]).unwrap().to_host().unwrap();
        assert_eq!(host.data(), &Data::F16(vec![f16::from_f32(0.5)]));
    }

    #[test]
    fn shapes_that_we_do_not_have_are_refused() {
        let storage = bytes(4);
        for dims in [vec![], vec![0, 4], vec![1; 5], vec![1; 40]] {
            let raw = RawTensor::contiguous(&storage, Element::F32, dims).unwrap();
            assert!(raw.to_host().unwrap_err().contains("shape"));
        }
    }

    #[test]
    fn hostile_names_stay_on_one_short_line() {
        assert_eq!(quoted("a\nb"), "`a\\nb`");
        assert!(quoted(&"é".repeat(10_000)).chars().count() < 130);
    }
}
