//! Multi-head attention.

use super::{Init, Linear, Net};
use crate::graph::Var;
use crate::kernels::attention::attention;
use crate::kernels::heads::{mix, scores};
use crate::kernels::softmax::softmax;

/// PyTorch's `nn.MultiheadAttention`, its packed input projection split into `q_proj`, `k_proj` and `v_proj`.
#[derive(Clone, Copy, Debug)]
pub struct MultiheadAttention {
    /// Number of heads; divides the channels.
    pub heads: usize,
    /// The positions that are attended to, u32 `[B, S]`: 1 counts, 0 is padding. `None` when all count.
    pub mask: Option<Var>,
}

impl MultiheadAttention {
    /// query `[B, N, C]`, key and value `[B, S, C]` to `[B, N, C]`.
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
            let mixed = if net.training().is_some() {
                let scores = scores(net, q, k, self.heads);
                let map = softmax(net, scores, self.mask);
                mix(net, map, v, None)
            } else {
                attention(net, q, k, v, self.heads, self.mask)
            };
            output.forward(net, "out_proj", mixed)
        })
    }
}
