//! What a JPEG file must hold before its decoder is trusted with it.
//!
//! The decoder is lenient: where the file ends early it paints grey and reports success. Pillow refuses such a file, and so
//! do we; therefore the file's markers are walked once, which touches every byte and decodes none.

/// The fewest bits that a block of 8 × 8 coefficients can take, in the widest sub-sampling, allow this many pixels a byte.
///
/// Each of a picture's W·H/64 blocks takes at least one bit of Huffman code, that is 512 pixels a byte; odd sampling factors
/// can halve the number of blocks.
const MAX_PIXELS_PER_BYTE: u64 = 1024;

/// Refuses a file that ends before its end-of-image marker, or that is too small for the pixels its header claims.
pub(super) fn check(bytes: &[u8], pixels: u64) -> Result<(), String> {
    if pixels > MAX_PIXELS_PER_BYTE * bytes.len() as u64 {
        return Err(format!("the header claims {pixels} pixels, which {} bytes of JPEG cannot hold", bytes.len()));
    }
    match end_of_image(bytes) {
        Some(_) => Ok(()),
        None => Err("truncated Jpeg picture: no end-of-image marker".into()),
    }
}

/// Position behind the end-of-image marker of the first picture in the file.
///
/// Markers are `FF` and a code; all but a few are followed by a length. Entropy-coded data holds only `FF 00`, restart
/// markers and bytes other than `FF`, so that the next marker can be searched for; a thumbnail's end lies inside a segment.
fn end_of_image(bytes: &[u8]) -> Option<usize> {
    const STUFFED: u8 = 0x00;
    const TEM: u8 = 0x01;
    const RST0: u8 = 0xD0;
    const RST7: u8 = 0xD7;
    const SOI: u8 = 0xD8;
    const EOI: u8 = 0xD9;
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == 0xFF)?;
        at += bytes[at..].iter().position(|&b| b != 0xFF)?;
        let marker = bytes[at];
        at += 1;
        match marker {
            EOI => return Some(at),
            STUFFED | TEM | SOI | RST0..=RST7 => {}
            _ => at += usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])).max(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_thumbnail_is_not_the_end_of_the_picture() {
        let app = [0xFF, 0xE1, 0x00, 0x06, 0xFF, 0xD9, 0xFF, 0xD9];
        let scan = [0xFF, 0xDA, 0x00, 0x02, 0x12, 0xFF, 0x00, 0xFF, 0xD0, 0x34];
        let whole = [&[0xFF, 0xD8], &app[..], &scan, &[0xFF, 0xFF, 0xD9, 0x77]].concat();
        assert_eq!(end_of_image(&whole), Some(whole.len() - 1));
        for cut in 0..whole.len() - 1 {
            assert_eq!(end_of_image(&whole[..cut]), None, "cut at {cut}");
        }
    }
}
