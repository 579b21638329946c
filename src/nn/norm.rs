//! Norms. Their parameters are f32 whatever the network computes in.

use super::{Init, Net};
use crate::graph::Var;
use crate::kernels::{layer_norm as kernel, scale_shift};

/// Added to variances, PyTorch's default in both norms.
const EPS: f32 = 1e-5;

/// `nn.LayerNorm` over the channels of x `[.., C]`: `weight [C]`, `bias [C]`.
#[track_caller]
pub fn layer_norm(net: &mut Net, name: &str, x: Var) -> Var {
    let c = net.shape(x).last();
    net.scoped(name, |net| {
        let weight = net.param("weight", [c], Init::Constant(1.0));
        let bias = net.param("bias", [c], Init::Constant(0.0));
        kernel::layer_norm(net, x, weight, bias, EPS)
    })
}

/// Batch norm whose statistics and affine parameters are fixed, DETR's `FrozenBatchNorm2d`, on x `[.., C]`:
/// `weight`, `bias`, `running_mean`, `running_var`, all `[C]`.
#[track_caller]
pub fn frozen_batch_norm(net: &mut Net, name: &str, x: Var) -> Var {
    let c = net.shape(x).last();
    net.scoped(name, |net| {
        let mut buffer = |name, value| net.buffer(name, [c], Init::Constant(value));
        let [weight, variance] = ["weight", "running_var"].map(|name| buffer(name, 1.0));
        let [bias, mean] = ["bias", "running_mean"].map(|name| buffer(name, 0.0));
        let (scale, shift) = scale_shift::frozen_norm(net, weight, bias, mean, variance, EPS);
        scale_shift::scale_shift(net, x, scale, shift)
    })
}
