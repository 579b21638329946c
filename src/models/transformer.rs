//! DETR's transformer: post-norm, positions added to queries and keys of every attention, one norm shared by the outputs of all
//! decoder layers. In training, dropout where the original has it.

use super::ModelConfig;
use super::config::{Alignment, Attention};
use super::smca::{Image, Reference};
use crate::graph::Var;
use crate::kernels::binary::add;
use crate::kernels::concat::concat;
use crate::kernels::unary::relu;
use crate::nn::{Init, Linear, MultiheadAttention, Net, Prior, dropout, layer_norm};
use crate::tensor::{Host, TensorType};

/// What the transformer sees of an image.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Features of the image's cells, `[B, L, C]`.
    pub features: Var,
    /// Their positions, `[B, L, C]`.
    pub positions: Var,
    /// Which cells belong to the image, u32 `[B, L]`: 1 does, 0 is padding.
    pub mask: Var,
}

/// The encoder: memory `[B, L, C]`. Cells of padding hold numbers too, which nothing attends to.
pub fn encoder(net: &mut Net, config: &ModelConfig, tokens: Tokens) -> Var {
    net.scoped("transformer.encoder", |net| {
        (0..config.encoder_layers).fold(tokens.features, |x, layer| {
            net.scoped(&format!("layers.{layer}"), |net| encoder_layer(net, config, Tokens { features: x, ..tokens }))
        })
    })
}

fn encoder_layer(net: &mut Net, config: &ModelConfig, Tokens { features: x, positions, mask }: Tokens) -> Var {
    let attention = MultiheadAttention { heads: config.heads, mask: Some(mask), prior: None, aligned: false };
    let query = add(net, x, positions);
    let update = attention.forward(net, "self_attn", query, query, x);
    let x = add_norm(net, 1, x, update);
    let update = feed_forward(net, config, x);
    add_norm(net, 2, x, update)
}

/// What the decoder gives.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Each layer's result, `[B, N, C]`, without the shared norm; N counts the queries of all groups.
    pub layers: Vec<Var>,
    /// Where SMCA-DETR's queries look.
    pub reference: Option<Reference>,
}

/// The decoder. `memory` holds the encoder's result and its positions. Behind the object queries come `groups` auxiliary
/// groups of as many each, with embeddings of their own (`query_embed_groups.weight`): queries of different groups do not see
/// each other, so that leaving the auxiliary ones out changes nothing for the others.
pub fn decoder(net: &mut Net, config: &ModelConfig, memory: Tokens, image: Image, groups: usize) -> Decoded {
    let (c, n) = (config.d_model, config.queries);
    let batch = net.shape(memory.features).dims()[0];
    let mut query_positions = net.param("query_embed.weight", [n, c], Init::Normal(1.0));
    if groups > 0 {
        let auxiliary = net.param("query_embed_groups.weight", [groups * n, c], Init::Normal(1.0));
        query_positions = concat(net, &[query_positions, auxiliary]);
    }
    let zeros = Host::zeros(TensorType::new([batch, (1 + groups) * n, c], net.precision().dtype()));
    let mut x = net.constant(zeros);
    net.scoped("transformer.decoder", |net| {
        let key = add(net, memory.features, memory.positions);
        let decoder = Decoder { config, query_positions, groups: 1 + groups, key, memory, image };
        let mut reference = None;
        let layer = |layer: usize| {
            x = net.scoped(&format!("layers.{layer}"), |net| decoder.layer(net, x, &mut reference));
            x
        };
        let layers = (0..config.decoder_layers).map(layer).collect();
        Decoded { layers, reference }
    })
}

/// The norm that the outputs of all decoder layers go through.
pub fn decoder_norm(net: &mut Net, x: Var) -> Var {
    net.scoped("transformer.decoder", |net| layer_norm(net, "norm", x))
}

/// What all decoder layers have in common.
struct Decoder<'a> {
    config: &'a ModelConfig,
    query_positions: Var,
    groups: usize,
    /// Memory plus its positions.
    key: Var,
    memory: Tokens,
    image: Image,
}

impl Decoder<'_> {
    fn layer(&self, net: &mut Net, x: Var, reference: &mut Option<Reference>) -> Var {
        let heads = self.config.heads;
        let query = add(net, x, self.query_positions);
        let prior = (self.config.attention == Attention::Smca).then(|| self.prior(net, query, reference));
        let update = self.self_attention(net, query, x);
        let x = add_norm(net, 1, x, update);
        let query = add(net, x, self.query_positions);
        let aligned = self.config.alignment == Alignment::CoAttention;
        let cross = MultiheadAttention { heads, mask: Some(self.memory.mask), prior, aligned };
        let update = cross.forward(net, "multihead_attn", query, self.key, self.memory.features);
        let x = add_norm(net, 2, x, update);
        let update = feed_forward(net, self.config, x);
        add_norm(net, 3, x, update)
    }

    /// Attention among the queries of each group: groups lie one behind the other, as images of a batch do.
    fn self_attention(&self, net: &mut Net, query: Var, x: Var) -> Var {
        let [b, n, c] = net.shape(x).blc();
        let apart = [b * self.groups, n / self.groups, c];
        let (query, value) = (net.reshape(query, apart), net.reshape(x, apart));
        let aligned = self.config.alignment == Alignment::SelfAttention;
        let attention = MultiheadAttention { heads: self.config.heads, mask: None, prior: None, aligned };
        let update = attention.forward(net, "self_attn", query, query, value);
        net.reshape(update, [b, n, c])
    }

    fn prior(&self, net: &mut Net, query: Var, reference: &mut Option<Reference>) -> Prior {
        let out = layer_norm(net, "norm4", query);
        let reference = *reference.get_or_insert_with(|| Reference::predict(net, self.config, out, self.image));
        reference.prior(net, self.config, out, self.image.columns)
    }
}

/// `norm(x + dropout(update))`, both of that number.
fn add_norm(net: &mut Net, number: usize, x: Var, update: Var) -> Var {
    let update = dropout(net, &format!("dropout{number}"), update);
    let sum = add(net, x, update);
    layer_norm(net, &format!("norm{number}"), sum)
}

fn feed_forward(net: &mut Net, config: &ModelConfig, x: Var) -> Var {
    let (c, ffn) = (config.d_model, config.ffn);
    let hidden = Linear::new(ffn).weight(Init::xavier(c, ffn)).forward(net, "linear1", x);
    let hidden = relu(net, hidden);
    let hidden = dropout(net, "dropout", hidden);
    Linear::new(c).weight(Init::xavier(ffn, c)).forward(net, "linear2", hidden)
}
