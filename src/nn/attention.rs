//! Multi-head attention.

use super::dropout::{dropout, place};
use super::quantized::attention_codes;
use super::{Init, Linear, Net};
use crate::graph::Var;
use crate::kernels::attention::{attention, attention_with_prior};
use crate::kernels::head_codes::{self, HeadCodes};
use crate::kernels::heads::{mix, scores, scores_with_prior};
use crate::kernels::layer_norm::distribution_alignment;
use crate::kernels::softmax::softmax;

/// PyTorch's `nn.MultiheadAttention`, its packed input projection split into `q_proj`, `k_proj` and `v_proj`.
#[derive(Clone, Copy, Debug)]
pub struct MultiheadAttention {
    /// Number of heads; divides the channels.
    pub heads: usize,
    /// The positions that are attended to, u32 `[B, S]`: 1 counts, 0 is padding. `None` when all count.
    pub mask: Option<Var>,
    /// SMCA's: around where each query looks.
    pub prior: Option<Prior>,
    /// Q-DETR's distribution alignment of the queries (Xu et al., CVPR 2023, Eq. 9), before they are quantized: `q_norm.weight` and
    /// `q_norm.bias`, which all heads share.
    pub aligned: bool,
}

/// A Gaussian around a point for each query and head: see [`kernels::prior`](crate::kernels::prior).
#[derive(Clone, Copy, Debug)]
pub struct Prior {
    /// The points (x, y) in cells of the feature map, f32 `[B, N, h, 2]`.
    pub centre: Var,
    /// One over the widths along x and y, in the same units and of the same type.
    pub inverse_width: Var,
    /// Cells in a row of the feature map.
    pub columns: usize,
}

impl MultiheadAttention {
    /// query `[B, N, C]`, key and value `[B, S, C]` to `[B, N, C]`. Taps: the queries `q` and, where they are aligned, `q_aligned`;
    /// `map [B, h, N, S]` where it is written; `features` and `update`, `[B, N, C]`, before and behind the output projection.
    #[track_caller]
    pub fn forward(self, net: &mut Net, name: &str, query: Var, key: Var, value: Var) -> Var {
        let c = net.shape(query).last();
        // PyTorch draws the three projections as one matrix [3C, C].
        let input = Linear::new(c).weight(Init::xavier(c, 3 * c)).zero_bias();
        let output = Linear::new(c).weight(Init::xavier(c, c)).zero_bias();
        net.scoped(name, |net| {
            let q = input.forward(net, "q_proj", query);
            let k = input.forward(net, "k_proj", key);
            let v = input.forward(net, "v_proj", value);
            net.tap("q", q);
            let q = if self.aligned { self.align(net, q) } else { q };
            let on_codes = net.quantization().is_some_and(|(quantization, _)| quantization.attention().is_some());
            let in_parts = net.training().is_some() || on_codes || net.is_open();
            let mixed = if in_parts { self.in_parts(net, [q, k, v]) } else { self.fused(net, [q, k, v]) };
            net.tap("features", mixed);
            let update = output.forward(net, "out_proj", mixed);
            net.tap("update", update);
            update
        })
    }

    fn align(self, net: &mut Net, q: Var) -> Var {
        let depth = net.shape(q).last() / self.heads;
        let aligned = net.scoped("q_norm", |net| {
            let gamma = net.param("weight", [depth], Init::Constant(1.0));
            let beta = net.param("bias", [depth], Init::Constant(0.0));
            distribution_alignment(net, q, gamma, beta)
        });
        net.tap("q_aligned", aligned);
        aligned
    }

    /// In one kernel, which never writes the attention map.
    fn fused(self, net: &mut Net, [q, k, v]: [Var; 3]) -> Var {
        match self.prior {
            None => attention(net, q, k, v, self.heads, self.mask),
            Some(Prior { centre, inverse_width, columns }) => {
                attention_with_prior(net, [q, k, v], self.heads, self.mask, columns, [centre, inverse_width])
            }
        }
    }

    /// In kernels that have gradients, with dropout on the attention map; on codes where the network has quantizers.
    fn in_parts(self, net: &mut Net, [q, k, v]: [Var; 3]) -> Var {
        let codes = [("q_act", q), ("k_act", k), ("v_act", v)].map(|(name, x)| attention_codes(net, name, x, self.heads));
        let [Some(q), Some(k), Some(v)] = codes else {
            let logits = self.scores(net, q, k);
            let map = softmax(net, logits, self.mask);
            net.tap("map", map);
            let _ = attention_codes(net, "map_act", map, self.heads);
            let dropout = place(net, "dropout");
            return mix(net, map, v, dropout);
        };
        let logits = self.scores_of_codes(net, q, k);
        let map = softmax(net, logits, self.mask);
        net.tap("map", map);
        let map = dropout(net, "dropout", map);
        let to = net.precision().dtype();
        let map = attention_codes(net, "map_act", map, self.heads).expect("where queries have codes, maps have them too");
        head_codes::mix(net, map, v, to)
    }

    fn scores(self, net: &mut Net, q: Var, k: Var) -> Var {
        match self.prior {
            None => scores(net, q, k, self.heads),
            Some(Prior { centre, inverse_width, columns }) => scores_with_prior(net, [q, k], self.heads, columns, [centre, inverse_width]),
        }
    }

    fn scores_of_codes(self, net: &mut Net, q: HeadCodes, k: HeadCodes) -> Var {
        let to = net.precision().dtype();
        match self.prior {
            None => head_codes::scores(net, q, k, self.heads, to),
            Some(Prior { centre, inverse_width, columns }) => {
                head_codes::scores_with_prior(net, [q, k], self.heads, to, columns, [centre, inverse_width])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::data::Entry;
    use crate::models::{BatchSize, ModelConfig, Results, detr};
    use crate::nn::Precision;
    use crate::quant::{Preset, Quantization};

    #[test]
    fn only_attention_on_codes_writes_its_map() {
        let ops = |preset: Preset| {
            let quantization = Some(Quantization { preset, ..Quantization::new("4-4-8".parse().unwrap()) });
            let config = ModelConfig { quantization, ..ModelConfig::detr("resnet18").unwrap() };
            let net = detr(&config, (BatchSize { images: 1, height: 64, width: 64 }, Entry::Bytes), Precision::F32, Results::Answers);
            ["attention", "softmax", "integer_conv"].map(|name| net.nodes().iter().filter(|node| node.op.name() == name).count())
        };
        assert!(matches!(ops(Preset::Executable), [0, 18, 21]), "{:?}", ops(Preset::Executable));
        // The last of these convolutions is the input projection.
        assert!(matches!(ops(Preset::Backbone), [18, 0, 20]), "{:?}", ops(Preset::Backbone));
    }
}
