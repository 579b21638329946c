//! Numbers from a name and an index: weights and inputs of full-size models that need no file.
//!
//! A full-size model is too large to commit, and a seeded stream would differ between this crate and PyTorch. So every
//! element is a pure function of its tensor's name (the original DETR name) and of its index in PyTorch's row-major layout;
//! `tests/golden/hashed.py` computes the same bits, and both are held to the same test vectors.
//!
//! This is a hash, not a generator for statistics or security; for shuffling and augmentation the crate uses `rand`.

/// The uniform numbers in `[-1, 1)` that belong to one name.
#[derive(Clone, Copy, Debug)]
pub struct HashedUniform {
    seed: u32,
}

impl HashedUniform {
    /// The numbers of `name`: seeded by the 32-bit FNV-1a hash of its UTF-8 bytes.
    pub fn new(name: &str) -> Self {
        let seed = name.bytes().fold(0x811c_9dc5_u32, |state, byte| (state ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self { seed }
    }

    /// The number at `index`, one of 2²⁴ equally spaced values, each exact in f32.
    pub fn at(self, index: u32) -> f32 {
        let bits = mix(self.seed ^ mix(index.wrapping_add(0x9e37_79b9)));
        ((bits >> 8) as i32 - (1 << 23)) as f32 / (1 << 23) as f32
    }
}

/// A 32-bit finalizer: every input bit changes every output bit with a probability near one half.
pub(crate) fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The number in `[-1, 1)` at `index` of the sequence that belongs to `name`; see [`HashedUniform`] for many of one name.
pub fn hashed_uniform(name: &str, index: u32) -> f32 {
    HashedUniform::new(name).at(index)
}

/// The standard deviation that a hashed weight gives to its output for inputs of mean square 1, by a part of its name; the
/// first that fits counts, 1 elsewhere. They keep feature maps of order 1 in every backbone, attention far from uniform
/// and the answers different between queries.
const GAINS: [(&str, f64); 8] = [
    ("multihead_attn.in_proj_weight", 2.0),
    ("multihead_attn.out_proj", 4.0),
    ("self_attn.in_proj_weight", 1.5),
    ("self_attn.out_proj", 0.3),
    ("linear2", 0.5),
    ("bbox_embed", 1.5),
    ("backbone.0.body.features", 1.1),
    ("backbone", 0.9),
];

/// The hashed weight or buffer of an original DETR name, in PyTorch's layout (convolutions `[out, in/groups, kh, kw]`,
/// packed `in_proj_weight [3 d, d]`), row-major.
///
/// With `u` the uniform number of an element: `running_var` and one-dimensional `weight` (norms) `1 + u/2`, `running_mean`
/// `u/4`, biases `0.2 u`, `query_embed.weight` `2 √3 u`, all other weights `gain √(3 / fan_in) u` where `fan_in` is the
/// product of all dimensions but the first. Scales are computed in f64 and rounded to f32 once.
pub fn hashed_weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let (offset, scale) = match last {
        "running_mean" => (0.0, 0.25),
        "running_var" => (1.0, 0.5),
        "weight" if shape.len() == 1 => (1.0, 0.5),
        "bias" | "in_proj_bias" => (0.0, 0.2),
        _ if name == "query_embed.weight" => (0.0, 2.0 * 3f64.sqrt()),
        _ => {
            let gain = GAINS.iter().find(|(part, _)| name.contains(part)).map_or(1.0, |&(_, gain)| gain);
            let fan_in: usize = shape.iter().skip(1).product();
            (0.0, gain * (3.0 / fan_in as f64).sqrt())
        }
    };
    let (offset, scale, numbers) = (offset as f32, scale as f32, HashedUniform::new(name));
    let count: usize = shape.iter().product();
    (0..count as u32).map(|index| offset + scale * numbers.at(index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_python_generator() {
        let vectors = [
            ("", 0, 7_174_405),
            ("pixel_values", 0, 1_774_986),
            ("pixel_values", 1, 5_763_426),
            ("query_embed.weight", 4095, 6_047_269),
            ("query_embed.weight", u32::MAX, 8_298_023),
        ];
        for (name, index, scaled) in vectors {
            assert_eq!(hashed_uniform(name, index), scaled as f32 / 8_388_608.0, "{name:?} at {index}");
        }
    }

    #[test]
    fn the_numbers_are_uniform_and_differ_between_names() {
        let (a, b) = (HashedUniform::new("a"), HashedUniform::new("b"));
        let count = 1 << 16;
        let mean = |f: &dyn Fn(u32) -> f32| (0..count).map(|i| f64::from(f(i))).sum::<f64>() / f64::from(count);
        assert!(mean(&|i| a.at(i)).abs() < 0.01);
        assert!((mean(&|i| a.at(i) * a.at(i)) - 1.0 / 3.0).abs() < 0.01);
        assert!(mean(&|i| a.at(i) * b.at(i)).abs() < 0.01);
        assert!(mean(&|i| a.at(i) * a.at(i + 1)).abs() < 0.01);
    }

    #[test]
    fn weights_are_those_of_the_python_rule() {
        // First and last element, as printed by tests/golden/hashed.py.
        let cases: &[(&str, &[usize], u32, u32)] = &[
            ("backbone.0.body.conv1.weight", &[64, 3, 7, 7], 0x3de4_0491, 0x3ce9_99e3),
            ("backbone.0.body.bn1.weight", &[64], 0x3f8e_18ae, 0x3fa9_10ec),
            ("backbone.0.body.bn1.running_mean", &[64], 0x3d2d_d058, 0xbd2a_0630),
            ("backbone.0.body.bn1.running_var", &[64], 0x3f8d_249c, 0x3f29_d772),
            ("backbone.0.body.features.1.conv.0.0.weight", &[32, 1, 3, 3], 0xbe40_1e09, 0x3e0f_8fa2),
            ("input_proj.weight", &[64, 2048, 1, 1], 0xbb8e_81e6, 0xbc5d_1728),
            ("transformer.encoder.layers.0.self_attn.in_proj_weight", &[192, 64], 0xbda7_5bd6, 0xbdf8_16c3),
            ("transformer.encoder.layers.0.self_attn.in_proj_bias", &[192], 0x3e48_c26b, 0xbd8b_1027),
            ("transformer.decoder.layers.1.multihead_attn.out_proj.weight", &[64, 64], 0x3f13_c6fe, 0xbee7_347a),
            ("query_embed.weight", &[10, 64], 0xbdd5_4275, 0x402b_5f22),
            ("bbox_embed.layers.2.weight", &[4, 64], 0xbd5a_2406, 0x3e9c_32f7),
        ];
        for &(name, shape, first, last) in cases {
            let weight = hashed_weight(name, shape);
            assert_eq!(weight.len(), shape.iter().product::<usize>());
            assert_eq!(weight[0], f32::from_bits(first), "{name}: first element");
            assert_eq!(weight[weight.len() - 1], f32::from_bits(last), "{name}: last element");
        }
    }
}
