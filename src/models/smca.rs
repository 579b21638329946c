//! SMCA-DETR's spatial prior (Gao et al., arXiv 2101.07448; single scale, a scale for each head and axis): every query predicts
//! a point, and its cross-attention starts as a Gaussian around it.
//!
//! In every decoder layer, before its self-attention, with `out = norm4(x + query_positions)`:
//!
//! - `point2(out)`, an offset (x, y) of every head, in cells of the feature map;
//! - `point3(out)`, one over the Gaussian's widths, starting at 1 everywhere;
//! - in the first layer `point1(out)`, the reference logits r. `sigmoid(r) · (width, height)` of the image without padding, in
//!   cells, is where all heads of all layers look, up to their offsets.
//!
//! Boxes: r is added to the centre logits of every layer's box head.

use super::ModelConfig;
use crate::graph::{Graph, Var};
use crate::kernels::binary::{add, mul};
use crate::kernels::linear::linear;
use crate::kernels::position::{Valid, mask_extent};
use crate::kernels::unary::sigmoid;
use crate::nn::{Init, Linear, Net, Prior, mlp};
use crate::tensor::Host;

/// The image behind a feature map.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Where it is: it fills the upper left corner.
    pub valid: Valid,
    /// Pixels of a cell.
    pub stride: usize,
    /// Cells in a row of the feature map.
    pub columns: usize,
}

/// What the first layer predicts for all.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// The point for every head, in cells: f32 `[B, N, 2 h]`.
    points: Var,
    /// r and two zeros, what box logits get added: f32 `[B, N, 4]`.
    boxes: Var,
}

impl Reference {
    /// From the first layer's `out [B, N, C]`.
    pub(super) fn predict(net: &mut Net, config: &ModelConfig, out: Var, image: Image) -> Self {
        let [_, n, c] = net.shape(out).blc();
        let logits = mlp(net, "point1", out, &[c, c, 2], Some(Init::xavier));
        let extent = mask_extent(net, image.valid, image.stride, n);
        let inside = sigmoid(net, logits);
        let point = mul(net, inside, extent);
        let points = spread(net, point, 2 * config.heads, |from, to| to % 2 == from);
        let boxes = spread(net, logits, 4, |from, to| from == to);
        Self { points, boxes }
    }

    /// What the heads of a layer look at, from its `out [B, N, C]`.
    pub(super) fn prior(self, net: &mut Net, config: &ModelConfig, out: Var, columns: usize) -> Prior {
        let [b, n, c] = net.shape(out).blc();
        let heads = config.heads;
        let offset = Linear::new(2 * heads).weight(Init::xavier(c, 2 * heads)).answer().forward(net, "point2", out);
        let centre = add(net, offset, self.points);
        let inverse_width = Linear::new(2 * heads).weight(Init::Constant(0.0)).bias(1.0).answer().forward(net, "point3", out);
        let [centre, inverse_width] = [centre, inverse_width].map(|x| net.reshape(x, [b, n, heads, 2]));
        Prior { centre, inverse_width, columns }
    }

    /// Box logits f32 `[k · B, N, 4]` of k layers around the reference.
    pub(super) fn shift_boxes(self, net: &mut Net, boxes: Var) -> Var {
        let [b, n, _] = net.shape(self.boxes).blc();
        let shape = net.shape(boxes);
        let layers = net.reshape(boxes, [shape.dims()[0] / b, b, n, 4]);
        let shifted = add(net, layers, self.boxes);
        net.reshape(shifted, shape.dims())
    }
}

/// x `[.., K]` to `[.., n]`: every result is the sum of those inputs that belong to it.
fn spread(g: &mut Graph, x: Var, n: usize, belongs: fn(usize, usize) -> bool) -> Var {
    let k = g.shape(x).last();
    let weight = (0..n * k).map(|i| f32::from(u8::from(belongs(i % k, i / k)))).collect();
    let weight = g.constant(Host::f32([n, k], weight));
    linear(g, x, weight, None)
}
