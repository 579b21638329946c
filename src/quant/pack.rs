//! Codes at their real width: what a file of a quantized model holds.
//!
//! The codes of a tensor, row-major, form one stream of bits without gaps between rows. Code i, as a two's complement number of
//! b bits, takes the bits `i·b .. (i+1)·b` of the stream, its lowest bit first; bit j of the stream is bit `j % 8` of byte `j / 8`,
//! counted from the lowest. Unused bits of the last byte are 0. So 8 bits are the codes' bytes, 4 bits two codes a byte with the
//! first one low, 2 bits four. Codes are those that kernels read, half of them negative, of unsigned levels too.

use std::ops::RangeInclusive;

/// Why codes cannot be packed or unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// There are no codes of so many bits.
    #[error("codes of {0} bits; want 2 to 8")]
    Bits(u32),
    /// A code is not one of its bits.
    #[error("code {code} at {index} leaves the {bits} bits it is to be packed in")]
    Code {
        /// Where it stands.
        index: usize,
        /// What it is.
        code: i8,
        /// What it should fit.
        bits: u32,
    },
    /// Packed codes of another length than their number says.
    #[error("packed codes of {found} bytes; {codes} codes of {bits} bits take {expected}")]
    Length {
        /// How many codes there should be.
        codes: usize,
        /// Of how many bits.
        bits: u32,
        /// How many bytes that takes.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The last byte has bits behind the last code.
    #[error("the last byte of packed codes has bits behind the last code: they were packed in another width, or are damaged")]
    Rest,
}

/// The bytes that packed codes take.
///
/// # Errors
/// [`PackError::Bits`].
pub fn packed_len(codes: usize, bits: u32) -> Result<usize, PackError> {
    range(bits)?;
    // By eighths, so that no number of codes overflows.
    Ok(codes / 8 * bits as usize + (codes % 8 * bits as usize).div_ceil(8))
}

/// The codes of some bits.
fn range(bits: u32) -> Result<RangeInclusive<i8>, PackError> {
    if !(2..=8).contains(&bits) {
        return Err(PackError::Bits(bits));
    }
    Ok(i8::MIN >> (8 - bits)..=i8::MAX >> (8 - bits))
}

/// Packs codes in so many bits each.
///
/// # Errors
/// [`PackError::Bits`], or [`PackError::Code`] for the first code that does not fit.
///
/// ```
/// use qdetr::quant::pack::{pack, unpack};
/// assert_eq!(pack(&[1, -1, 7], 4)?, [0xf1, 0x07]);
/// assert_eq!(unpack(&[0xf1, 0x07], 3, 4)?, [1, -1, 7]);
/// # Ok::<(), qdetr::quant::pack::PackError>(())
/// ```
pub fn pack(codes: &[i8], bits: u32) -> Result<Vec<u8>, PackError> {
    let allowed = range(bits)?;
    if let Some(index) = codes.iter().position(|code| !allowed.contains(code)) {
        return Err(PackError::Code { index, code: codes[index], bits });
    }
    let mut bytes = Vec::with_capacity(packed_len(codes.len(), bits)?);
    let mask = u8::MAX >> (8 - bits);
    // Eight codes fill whole bytes.
    for eight in codes.chunks(8) {
        let place = |(i, &code): (usize, &i8)| u64::from(code as u8 & mask) << (i as u32 * bits);
        let word = eight.iter().enumerate().map(place).fold(0, |word, code| word | code);
        bytes.extend_from_slice(&word.to_le_bytes()[..(eight.len() * bits as usize).div_ceil(8)]);
    }
    Ok(bytes)
}

/// Unpacks `codes` codes of so many bits each.
///
/// # Errors
/// [`PackError::Bits`]; [`PackError::Length`] when bytes are missing or left over; [`PackError::Rest`].
pub fn unpack(bytes: &[u8], codes: usize, bits: u32) -> Result<Vec<i8>, PackError> {
    let expected = packed_len(codes, bits)?;
    if bytes.len() != expected {
        return Err(PackError::Length { codes, bits, expected, found: bytes.len() });
    }
    let mut unpacked = Vec::with_capacity(codes);
    for (group, piece) in bytes.chunks(bits as usize).enumerate() {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        let word = u64::from_le_bytes(word);
        let here = (codes - 8 * group).min(8) as u32;
        // Shifted up and back: the sign is copied.
        unpacked.extend((0..here).map(|i| ((word >> (i * bits)) as u8 as i8) << (8 - bits) >> (8 - bits)));
        if here < 8 && word >> (here * bits) != 0 {
            return Err(PackError::Rest);
        }
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bits of a stream, one by one, as the module's text says.
    fn bit(bytes: &[u8], j: usize) -> u8 {
        bytes[j / 8] >> (j % 8) & 1
    }

    proptest! {
        #[test]
        fn codes_come_back_and_lie_where_the_text_says(bits in 2u32..=8, codes in prop::collection::vec(any::<i8>(), 0..70)) {
            let codes: Vec<i8> = codes.into_iter().map(|c| c >> (8 - bits)).collect();
            let bytes = pack(&codes, bits).unwrap();
            prop_assert_eq!(bytes.len(), (codes.len() * bits as usize).div_ceil(8));
            for (i, code) in codes.iter().enumerate() {
                for j in 0..bits as usize {
                    prop_assert_eq!(bit(&bytes, i * bits as usize + j), *code as u8 >> j & 1);
                }
            }
            prop_assert_eq!(unpack(&bytes, codes.len(), bits).unwrap(), codes);
        }

        #[test]
        fn any_bytes_are_codes_or_an_error(bits in 0u32..=9, codes in 0usize..40, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(found) = unpack(&bytes, codes, bits) {
                prop_assert_eq!(pack(&found, bits).unwrap(), bytes);
                prop_assert_eq!(found.len(), codes);
            }
        }

        #[test]
        fn a_code_that_does_not_fit_is_found(bits in 2u32..=7, at in 0usize..20, code in any::<i8>()) {
            let mut codes = vec![0; 20];
            codes[at] = code;
            let fits = range(bits).unwrap().contains(&code);
            prop_assert_eq!(pack(&codes, bits).err(), (!fits).then_some(PackError::Code { index: at, code, bits }));
        }
    }

    #[test]
    fn eight_bits_are_the_bytes_and_two_bits_are_four_a_byte() {
        assert_eq!(pack(&[-128, 127, -1], 8).unwrap(), [0x80, 0x7f, 0xff]);
        assert_eq!(pack(&[1, -2, -1, 0, 1], 2).unwrap(), [0b00_11_10_01, 0b01]);
        assert_eq!(pack(&[3, -4, 1], 3).unwrap(), [0b01_100_011, 0b0]);
    }

    #[test]
    fn bytes_that_are_missing_left_over_or_damaged_are_refused() {
        let bytes = pack(&[1, 2, 3], 3).unwrap();
        let length = |found| Err(PackError::Length { codes: 3, bits: 3, expected: 2, found });
        assert_eq!(unpack(&bytes[..1], 3, 3), length(1));
        assert_eq!(unpack(&[bytes.as_slice(), &[0]].concat(), 3, 3), length(3));
        assert_eq!(unpack(&[bytes[0], bytes[1] | 0x80], 3, 3), Err(PackError::Rest));
        assert_eq!(unpack(&[], usize::MAX, 2).unwrap_err().to_string().split(';').next(), Some("packed codes of 0 bytes"));
        assert_eq!(pack(&[], 9), Err(PackError::Bits(9)));
    }
}
