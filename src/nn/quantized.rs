//! Low bits as a property of layers: where a network quantizes, and what it runs instead of floats.
//!
//! A quantizer called `NAME` has the parameters `NAME.alpha`, its step sizes, and with zero points `NAME.zero_point`. That of a layer's
//! weights has the layer's own name, that of its input is `act`, those of attention are `q_act`, `k_act`, `v_act` and `map_act`, that of what a block gives is `skip`.

use super::{Init, Net};
use crate::graph::Var;
use crate::kernels::head_codes::HeadCodes;
use crate::kernels::integer::Codes;
use crate::kernels::quantize::{Levels, dequantize, quantize, quantizer_state};
use crate::kernels::unary::cast;
use crate::quant::{Method, Quantization, Quantizer, Sign};
use crate::tensor::{DType, Shape};

/// Before the name of a quantizer: the output that is the tensor it would quantize, in a network that only observes.
pub const OBSERVED: &str = "observed.";

/// The name of the quantizer of what a block gives.
const SKIP: &str = "skip";

/// The names of a quantizer's parameters behind its own.
pub const ALPHA: &str = "alpha";
/// As [`ALPHA`].
pub const ZERO_POINT: &str = "zero_point";

/// What a network does where its configuration has a quantizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantizing {
    /// Quantizes, and computes with codes.
    #[default]
    Run,
    /// Computes with floats and has the tensors as outputs: what step sizes start from.
    Observe,
}

/// A quantizer of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// The parameter that it quantizes; `None` for an activation.
    pub weight: Option<String>,
    /// Bits, sign and granularity; zero points as the network has them.
    pub quantizer: Quantizer,
}

/// What a layer multiplies.
pub(super) enum Operands {
    Floats { x: Var, weight: Var },
    Codes { x: Codes, weight: Codes },
}

/// The operands of the layer that the scope is of: its input x, and its parameter `weight`.
#[track_caller]
pub(super) fn operands(net: &mut Net, x: Var, shape: &[usize], init: Init) -> Operands {
    let Some((quantization, doing)) = net.quantization().cloned() else { return floats(net, x, shape, init) };
    let bits = quantization.layer(&net.scope());
    let Some(weight_bits) = bits.weights else { return floats(net, x, shape, init) };
    if doing == Quantizing::Observe {
        let (name, weight) = (net.scope(), net.path("weight"));
        net.place(Place { name, weight: Some(weight), quantizer: Quantizer::weights(weight_bits, Method::Lsq) });
        if let Some(bits) = bits.inputs {
            observe(net, "act", x, Quantizer::activations(bits, Method::Lsq));
        }
        return floats(net, x, shape, init);
    }
    let weight = weight_codes(net, shape, init, weight_bits);
    match bits.inputs {
        Some(bits) => Operands::Codes { x: input_codes(net, &quantization, x, bits), weight },
        None => {
            let (inner, to) = (shape[1..].iter().product(), net.precision().dtype());
            Operands::Floats { x, weight: dequantize(net, weight.codes, weight.state, inner, to) }
        }
    }
}

fn floats(net: &mut Net, x: Var, shape: &[usize], init: Init) -> Operands {
    Operands::Floats { x, weight: net.weight("weight", shape, init) }
}

fn weight_codes(net: &mut Net, shape: &[usize], init: Init, bits: u32) -> Codes {
    let weight = net.param("weight", shape, init);
    let alpha = net.param(ALPHA, [shape[0]], Init::Constant(1.0));
    let levels = Levels::new(bits, true);
    let state = quantizer_state(net, alpha, None, levels);
    Codes { codes: quantize(net, weight, state, levels, shape[1..].iter().product()), state, bits }
}

fn input_codes(net: &mut Net, quantization: &Quantization, x: Var, bits: u32) -> Codes {
    let inner = net.shape(x).len();
    let HeadCodes { codes, state } = activation_codes(net, quantization, "act", x, (1, inner), bits, None);
    Codes { codes, state, bits }
}

/// The codes of an activation; the sign is that of the configuration unless it is given.
fn activation_codes(
    net: &mut Net,
    quantization: &Quantization,
    name: &str,
    x: Var,
    (groups, inner): (usize, usize),
    bits: u32,
    signed: Option<bool>,
) -> HeadCodes {
    net.scoped(name, |net| {
        let levels = Levels::new(bits, signed.unwrap_or_else(|| quantization.is_signed(&net.scope())));
        let alpha = net.param(ALPHA, [groups], Init::Constant(1.0));
        let zero_point = quantization.zero_points.then(|| net.param(ZERO_POINT, [groups], Init::Constant(0.0)));
        let state = quantizer_state(net, alpha, zero_point, levels);
        HeadCodes { codes: quantize(net, x, state, levels, inner), state }
    })
}

/// What a block, or the stem, gives to the next as it is kept, in codes where the network has such: what these stand for.
pub fn kept(net: &mut Net, x: Var) -> Var {
    let Some((quantization, doing)) = net.quantization().cloned() else { return x };
    let Some(bits) = quantization.skips() else { return x };
    if doing == Quantizing::Observe {
        observe(net, SKIP, x, Quantizer::activations(bits, Method::Lsq));
        return x;
    }
    let (inner, to) = (net.shape(x).len(), net.precision().dtype());
    let HeadCodes { codes, state } = activation_codes(net, &quantization, SKIP, x, (1, inner), bits, None);
    dequantize(net, codes, state, inner, to)
}

/// The operand of an attention's product that x becomes, one step size a head; `None` where attention computes with floats.
#[track_caller]
pub(super) fn attention_codes(net: &mut Net, name: &str, x: Var, heads: usize) -> Option<HeadCodes> {
    let (quantization, doing) = net.quantization().cloned()?;
    let bits = quantization.attention()?;
    let is_map = net.shape(x).dims().len() == 4;
    let quantizer = if is_map { Quantizer::map(bits, Method::Mse) } else { Quantizer::tokens(bits, heads, Method::Lsq) };
    if doing == Quantizing::Observe {
        observe(net, name, x, quantizer);
        return None;
    }
    let (groups, inner) = quantizer.granularity.of(net.shape(x));
    Some(activation_codes(net, &quantization, name, x, (groups, inner), bits, Some(quantizer.sign == Sign::Signed)))
}

fn observe(net: &mut Net, name: &str, x: Var, quantizer: Quantizer) {
    let path = net.path(name);
    let x = cast(net, x, DType::F32);
    net.output(&format!("{OBSERVED}{path}"), x);
    net.place(Place { name: path, weight: None, quantizer });
}

/// Whether a parameter, by its full name, is a quantizer's: these do not decay.
pub fn is_quantizers(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some(ALPHA | ZERO_POINT))
}

/// The shape of weights as rows of output channels, for a quantizer's granularity.
pub fn rows(shape: Shape) -> Shape {
    let channels = shape.dims()[0];
    Shape::new([channels, shape.len() / channels])
}
