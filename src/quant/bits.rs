//! The papers' notation for a quantized network: `4-4-8` is 4 bits for weights, 4 for activations, 8 inside attention.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Bits of weights, activations, and attention's operands: queries, keys, values and the attention map.
///
/// ```
/// use qdetr::quant::Bits;
/// let bits: Bits = "4-4-8".parse()?;
/// assert_eq!(bits, Bits { weights: 4, activations: 4, attention: 8 });
/// assert_eq!(bits.to_string(), "4-4-8");
/// # Ok::<(), qdetr::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bits {
    /// 2 to 8.
    pub weights: u32,
    /// 2 to 8.
    pub activations: u32,
    /// 4 to 8.
    pub attention: u32,
}

/// What each part may be.
const PARTS: [(&str, RangeInclusive<u32>); 3] = [("weights", 2..=8), ("activations", 2..=8), ("attention", 4..=8)];

impl Bits {
    /// Bits that are within their limits.
    ///
    /// # Errors
    /// [`Error::Config`] when a part is not.
    pub fn new(weights: u32, activations: u32, attention: u32) -> Result<Self> {
        for ((name, allowed), found) in PARTS.into_iter().zip([weights, activations, attention]) {
            if !allowed.contains(&found) {
                let (least, most) = (allowed.start(), allowed.end());
                return Err(Error::Config(format!("{found} bits for {name}; want {least} to {most}")));
            }
        }
        Ok(Self { weights, activations, attention })
    }
}

impl FromStr for Bits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        let parts: Option<Vec<u32>> = text.split('-').map(number).collect();
        match parts.as_deref() {
            Some(&[weights, activations, attention]) => {
                Self::new(weights, activations, attention).map_err(|e| Error::Config(format!("bits `{text}`: {}", plain(&e))))
            }
            _ => Err(Error::Config(format!("bits `{text}`; want weights-activations-attention, such as 4-4-8"))),
        }
    }
}

/// The message of an [`Error::Config`] without its heading.
fn plain(error: &Error) -> String {
    if let Error::Config(what) = error { what.clone() } else { error.to_string() }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.weights, self.activations, self.attention)
    }
}

impl TryFrom<String> for Bits {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Bits> for String {
    fn from(bits: Bits) -> Self {
        bits.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_allowed_is_displayed_as_it_is_read() {
        for (w, a, t) in (2..=8).flat_map(|w| (2..=8).flat_map(move |a| (4..=8).map(move |t| (w, a, t)))) {
            let bits = Bits::new(w, a, t).unwrap();
            assert_eq!(bits.to_string().parse::<Bits>().unwrap(), bits);
            assert_eq!(serde_json::from_str::<Bits>(&serde_json::to_string(&bits).unwrap()).unwrap(), bits);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, what) in [
            ("1-4-8", "1 bits for weights; want 2 to 8"),
            ("4-9-8", "9 bits for activations; want 2 to 8"),
            ("4-4-3", "3 bits for attention; want 4 to 8"),
            ("4-4", "such as 4-4-8"),
            ("4-4-8-8", "such as 4-4-8"),
            ("4-+4-8", "such as 4-4-8"),
            ("4 -4-8", "such as 4-4-8"),
            ("--", "such as 4-4-8"),
            ("99999999999-4-8", "such as 4-4-8"),
            ("", "such as 4-4-8"),
        ] {
            let error = text.parse::<Bits>().unwrap_err();
            assert!(matches!(error, Error::Config(_)) && error.to_string().contains(what), "{text}: {error}");
        }
    }
}
