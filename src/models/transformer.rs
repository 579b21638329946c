//! DETR's transformer: post-norm, positions added to queries and keys of every attention, one norm shared by the outputs of all
//! decoder layers.

use super::ModelConfig;
use crate::graph::Var;
use crate::kernels::binary::add;
use crate::kernels::unary::relu;
use crate::nn::{Init, Linear, MultiheadAttention, Net, layer_norm};
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
    let attention = MultiheadAttention { heads: config.heads, mask: Some(mask) };
    let query = add(net, x, positions);
    let update = attention.forward(net, "self_attn", query, query, x);
    let x = add_norm(net, "norm1", x, update);
    let update = feed_forward(net, config, x);
    add_norm(net, "norm2", x, update)
}

/// The decoder: what each layer gives, `[B, N, C]`, without the shared norm. `memory` holds the encoder's result and its
/// positions.
pub fn decoder(net: &mut Net, config: &ModelConfig, memory: Tokens) -> Vec<Var> {
    let c = config.d_model;
    let batch = net.shape(memory.features).dims()[0];
    let query_positions = net.param("query_embed.weight", [config.queries, c], Init::Normal(1.0));
    let zeros = Host::zeros(TensorType::new([batch, config.queries, c], net.precision().dtype()));
    let mut x = net.constant(zeros);
    net.scoped("transformer.decoder", |net| {
        let key = add(net, memory.features, memory.positions);
        let layer = |layer: usize| {
            x = net.scoped(&format!("layers.{layer}"), |net| decoder_layer(net, config, x, query_positions, key, memory));
            x
        };
        (0..config.decoder_layers).map(layer).collect()
    })
}

/// The norm that the outputs of all decoder layers go through.
pub fn decoder_norm(net: &mut Net, x: Var) -> Var {
    net.scoped("transformer.decoder", |net| layer_norm(net, "norm", x))
}

fn decoder_layer(net: &mut Net, config: &ModelConfig, x: Var, query_positions: Var, key: Var, memory: Tokens) -> Var {
    let heads = config.heads;
    let query = add(net, x, query_positions);
    let update = MultiheadAttention { heads, mask: None }.forward(net, "self_attn", query, query, x);
    let x = add_norm(net, "norm1", x, update);
    let query = add(net, x, query_positions);
    let cross = MultiheadAttention { heads, mask: Some(memory.mask) };
    let update = cross.forward(net, "multihead_attn", query, key, memory.features);
    let x = add_norm(net, "norm2", x, update);
    let update = feed_forward(net, config, x);
    add_norm(net, "norm3", x, update)
}

fn add_norm(net: &mut Net, norm: &str, x: Var, update: Var) -> Var {
    let sum = add(net, x, update);
    layer_norm(net, norm, sum)
}

fn feed_forward(net: &mut Net, config: &ModelConfig, x: Var) -> Var {
    let (c, ffn) = (config.d_model, config.ffn);
    let hidden = Linear::new(ffn).weight(Init::xavier(c, ffn)).forward(net, "linear1", x);
    let hidden = relu(net, hidden);
    Linear::new(c).weight(Init::xavier(ffn, c)).forward(net, "linear2", hidden)
}
