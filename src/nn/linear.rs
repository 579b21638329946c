//! Linear layers and stacks of them.

use super::quantized::{Operands, operands};
use super::{Init, Net};
use crate::graph::Var;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::integer;
use crate::kernels::linear::Linear as LinearOp;
use crate::kernels::unary::relu;
use crate::tensor::DType;

/// PyTorch's `nn.Linear` with a bias: `weight [features, K]`, `bias [features]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    features: usize,
    weight: Option<Init>,
    bias: Option<Init>,
    to: Option<DType>,
}

impl Linear {
    /// A layer with this many outputs and PyTorch's start: weight and bias uniform in ±√(1 / K).
    pub fn new(features: usize) -> Self {
        Self { features, weight: None, bias: None, to: None }
    }

    /// The weight starts from this distribution instead.
    pub fn weight(self, init: Init) -> Self {
        Self { weight: Some(init), ..self }
    }

    /// The bias starts at this instead.
    pub fn bias(self, value: f32) -> Self {
        Self { bias: Some(Init::Constant(value)), ..self }
    }

    /// The bias starts at zero instead.
    pub fn zero_bias(self) -> Self {
        self.bias(0.0)
    }

    /// The result is f32, whatever the network computes in: an answer of the model.
    pub fn answer(self) -> Self {
        Self { to: Some(DType::F32), ..self }
    }

    /// x `[.., K]` to `[.., features]`.
    #[track_caller]
    pub fn forward(self, net: &mut Net, name: &str, x: Var) -> Var {
        let k = net.shape(x).last();
        let default = Init::fan_in(k);
        net.scoped(name, |net| {
            let operands = operands(net, x, &[self.features, k], self.weight.unwrap_or(default));
            let bias = net.param("bias", [self.features], self.bias.unwrap_or(default));
            match operands {
                Operands::Floats { x, weight } => net.apply(LinearOp { epilogue: Epilogue::bias(true), to: self.to }, &[x, weight, bias]),
                Operands::Codes { x, weight } => {
                    let to = self.to.unwrap_or(net.precision().dtype());
                    integer::linear(net, x, weight, Some(bias), to)
                }
            }
        })
    }
}

/// Linear layers `layers.0`, `layers.1`, … with ReLU between them; the last one answers. Weights start from what `weight` says of
/// inputs and outputs, or as PyTorch's.
pub fn mlp(net: &mut Net, name: &str, mut x: Var, features: &[usize], weight: Option<fn(usize, usize) -> Init>) -> Var {
    net.scoped(name, |net| {
        for (i, &n) in features.iter().enumerate() {
            let (layer, name) = (Linear::new(n), format!("layers.{i}"));
            let layer = weight.map_or(layer, |weight| layer.weight(weight(net.shape(x).last(), n)));
            x = if i + 1 == features.len() {
                layer.answer().forward(net, &name, x)
            } else {
                let y = layer.forward(net, &name, x);
                relu(net, y)
            };
        }
        x
    })
}
