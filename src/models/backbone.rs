//! Convolutional backbones: ResNet v1.5 and MobileNetV2 as torchvision has them, with frozen batch norms.

use super::config::{Backbone, Block, MobileNetV2, ResNet};
use crate::graph::Var;
use crate::kernels::binary::add;
use crate::kernels::pool::max_pool;
use crate::kernels::reduce::global_average_pool;
use crate::kernels::unary::{cast, relu, relu6};
use crate::nn::quantized::kept;
use crate::nn::{Conv, Linear, Net, conv_norm};

/// Image f32 `[B, H, W, 3]` to feature map `[B, h, w, channels]`.
pub fn backbone(net: &mut Net, config: &Backbone, pixels: Var) -> Var {
    let to = net.precision().dtype();
    let pixels = cast(net, pixels, to);
    match config {
        Backbone::Resnet(config) => resnet(net, config, pixels),
        Backbone::MobilenetV2(config) => mobilenet_v2(net, config, pixels),
    }
}

fn resnet(net: &mut Net, config: &ResNet, pixels: Var) -> Var {
    let x = conv_norm(net, ["conv1", "bn1"], pixels, Conv::new(config.stem, 7).stride(2));
    let x = relu(net, x);
    // The largest tensor of the network. Codes of a maximum are the maximum of codes: what the pool gives needs no quantizer of its own.
    let x = net.scoped("conv1", |net| kept(net, x));
    let mut x = max_pool(net, x, 3, 2, 1);
    for (stage, (&depth, &width)) in config.depths.iter().zip(&config.widths).enumerate() {
        let dilated = config.dilated_c5 && stage == 3;
        let stride = if stage == 0 || dilated { 1 } else { 2 };
        for block in 0..depth {
            // The first block of a dilated stage keeps the dilation of the stage before it.
            let shape = BlockShape {
                width,
                stride: if block == 0 { stride } else { 1 },
                first_dilation: if dilated && block > 0 { 2 } else { 1 },
                dilation: if dilated { 2 } else { 1 },
            };
            let is_last = stage == 3 && block + 1 == depth;
            x = net.scoped(&format!("layer{}.{block}", stage + 1), |net| {
                let y = residual(net, config.block, x, shape);
                if is_last { y } else { kept(net, y) }
            });
        }
    }
    x
}

#[derive(Clone, Copy)]
struct BlockShape {
    width: usize,
    stride: usize,
    /// Dilation of the block's first 3×3 convolution.
    first_dilation: usize,
    /// Dilation of its second one, which only basic blocks have.
    dilation: usize,
}

fn residual(net: &mut Net, block: Block, x: Var, shape: BlockShape) -> Var {
    let BlockShape { width, stride, first_dilation, dilation } = shape;
    let branch = match block {
        Block::Basic => {
            let y = conv_norm(net, ["conv1", "bn1"], x, Conv::new(width, 3).stride(stride).dilation(first_dilation));
            let y = relu(net, y);
            conv_norm(net, ["conv2", "bn2"], y, Conv::new(width, 3).dilation(dilation))
        }
        Block::Bottleneck => {
            let y = conv_norm(net, ["conv1", "bn1"], x, Conv::new(width / 4, 1));
            let y = relu(net, y);
            let y = conv_norm(net, ["conv2", "bn2"], y, Conv::new(width / 4, 3).stride(stride).dilation(first_dilation));
            let y = relu(net, y);
            conv_norm(net, ["conv3", "bn3"], y, Conv::new(width, 1))
        }
    };
    let same = stride == 1 && net.shape(x).last() == width;
    let identity = if same {
        x
    } else {
        let x = conv_norm(net, ["downsample.0", "downsample.1"], x, Conv::new(width, 1).stride(stride));
        net.scoped("downsample", |net| kept(net, x))
    };
    let sum = add(net, branch, identity);
    relu(net, sum)
}

/// A group of MobileNetV2's blocks: expansion, channels, blocks, stride of the first.
const GROUPS: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

fn mobilenet_v2(net: &mut Net, config: &MobileNetV2, pixels: Var) -> Var {
    let groups = if config.stride == 16 { &GROUPS[..5] } else { &GROUPS };
    net.scoped("features", |net| {
        let mut x = conv_norm6(net, "0", pixels, Conv::new(32, 3).stride(2));
        let mut index = 1;
        let last: usize = groups.iter().map(|&(_, _, blocks, _)| blocks).sum();
        for &(expansion, channels, blocks, stride) in groups {
            for block in 0..blocks {
                let stride = if block == 0 { stride } else { 1 };
                x = net.scoped(&format!("{index}.conv"), |net| inverted_residual(net, x, expansion, channels, stride));
                if index < last {
                    x = net.scoped(&index.to_string(), |net| kept(net, x));
                }
                index += 1;
            }
        }
        x
    })
}

/// torchvision's `Conv2dNormActivation`: convolution `0`, norm `1`, ReLU6.
fn conv_norm6(net: &mut Net, name: &str, x: Var, layer: Conv) -> Var {
    net.scoped(name, |net| {
        let y = conv_norm(net, ["0", "1"], x, layer);
        relu6(net, y)
    })
}

fn inverted_residual(net: &mut Net, x: Var, expansion: usize, channels: usize, stride: usize) -> Var {
    let inputs = net.shape(x).last();
    let (mut y, mut layer) = (x, 0);
    let mut next = || {
        layer += 1;
        (layer - 1).to_string()
    };
    if expansion > 1 {
        y = conv_norm6(net, &next(), y, Conv::new(inputs * expansion, 1));
    }
    y = conv_norm6(net, &next(), y, Conv::depthwise(inputs * expansion, 3).stride(stride));
    y = conv_norm(net, [&next(), &next()], y, Conv::new(channels, 1));
    if stride == 1 && inputs == channels { add(net, y, x) } else { y }
}

/// torchvision's MobileNetV2 classifier: image f32 `[B, H, W, 3]` to logits f32 `[B, classes]`; its parameters are below
/// `backbone.0.body`, so that a detector can take the backbone from the same file.
pub fn classifier(net: &mut Net, pixels: Var, classes: usize) -> Var {
    net.scoped("backbone.0.body", |net| {
        let x = backbone(net, &Backbone::MobilenetV2(MobileNetV2 { stride: 32 }), pixels);
        let x = net.scoped("features", |net| conv_norm6(net, "18", x, Conv::new(1280, 1)));
        let x = global_average_pool(net, x);
        Linear::new(classes).answer().forward(net, "classifier.1", x)
    })
}
