//! Convolutions.

use super::quantized::{Operands, operands};
use super::{Init, Net, frozen_batch_norm};
use crate::graph::Var;
use crate::kernels::conv::{Window, conv2d, conv2d_bias};
use crate::kernels::depthwise::depthwise;
use crate::kernels::integer::{self, Codes};

/// PyTorch's `nn.Conv2d` with a square kernel, padded so that stride 1 keeps the size: `weight [channels, k, k, C/groups]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    channels: usize,
    kernel: usize,
    window: Window,
    depthwise: bool,
}

impl Conv {
    /// A convolution with this many outputs and a square kernel, stride 1.
    pub fn new(channels: usize, kernel: usize) -> Self {
        Self { channels, kernel, window: Window { stride: 1, padding: kernel / 2, dilation: 1 }, depthwise: false }
    }

    /// The same with as many groups as channels.
    pub fn depthwise(channels: usize, kernel: usize) -> Self {
        Self { depthwise: true, ..Self::new(channels, kernel) }
    }

    /// Moves the window by this many pixels.
    pub fn stride(self, stride: usize) -> Self {
        Self { window: Window { stride, ..self.window }, ..self }
    }

    /// Spreads the taps, and the padding with them.
    pub fn dilation(self, dilation: usize) -> Self {
        Self { window: Window { dilation, padding: dilation * (self.kernel / 2), ..self.window }, ..self }
    }

    /// x `[B, H, W, C]` to `[B, H', W', channels]`, without a bias: what precedes a norm.
    #[track_caller]
    pub fn forward(self, net: &mut Net, name: &str, x: Var) -> Var {
        // torchvision's start, whose fan counts the channels of one group.
        let outputs = if self.depthwise { 1 } else { self.channels };
        let init = Init::kaiming(outputs * self.kernel * self.kernel);
        net.scoped(name, |net| match operands(net, x, &self.shape(net, x), init) {
            Operands::Floats { x, weight } if self.depthwise => depthwise(net, x, weight, self.window),
            Operands::Floats { x, weight } => conv2d(net, x, weight, self.window),
            Operands::Codes { x, weight } => self.integer(net, x, weight, None),
        })
    }

    /// The same with a `bias [channels]`, started as PyTorch does.
    ///
    /// # Panics
    /// On a depthwise convolution: those have norms.
    #[track_caller]
    pub fn forward_biased(self, net: &mut Net, name: &str, x: Var) -> Var {
        assert!(!self.depthwise, "{name}: a depthwise convolution has no bias");
        let init = Init::fan_in(self.kernel * self.kernel * net.shape(x).last());
        net.scoped(name, |net| {
            let operands = operands(net, x, &self.shape(net, x), init);
            let bias = net.param("bias", [self.channels], init);
            match operands {
                Operands::Floats { x, weight } => conv2d_bias(net, x, weight, bias, self.window),
                Operands::Codes { x, weight } => self.integer(net, x, weight, Some(bias)),
            }
        })
    }

    fn integer(self, net: &mut Net, x: Codes, weight: Codes, bias: Option<Var>) -> Var {
        let to = net.precision().dtype();
        if self.depthwise {
            integer::depthwise(net, x, weight, bias, self.window, to)
        } else {
            integer::conv(net, x, weight, bias, self.window, to)
        }
    }

    /// The shape of its weights.
    fn shape(self, net: &Net, x: Var) -> [usize; 4] {
        let c = if self.depthwise { 1 } else { net.shape(x).last() };
        [self.channels, self.kernel, self.kernel, c]
    }
}

/// A convolution and the frozen batch norm behind it, each with its name.
#[track_caller]
pub fn conv_norm(net: &mut Net, [conv, norm]: [&str; 2], x: Var, layer: Conv) -> Var {
    let y = layer.forward(net, conv, x);
    frozen_batch_norm(net, norm, y)
}
