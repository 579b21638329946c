"""LSQ fake quantization in plain PyTorch: what quantization-aware training costs who writes it there.

Weights have a learned step size for every output channel (LSQ); inputs have one step size and one offset for the tensor
(LSQ+). Rounding passes gradients straight through.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def straight_round(x: Tensor) -> Tensor:
    return (x.round() - x).detach() + x


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself, whose gradient is multiplied by the factor."""
    return (x - x * factor).detach() + x * factor


def gradient_factor(elements: int, top: int) -> float:
    """LSQ's factor, which keeps updates of step sizes in proportion to those of weights."""
    return 1 / math.sqrt(elements * top)


class FakeQuantized(nn.Module):
    """A linear layer or convolution whose weights and inputs are rounded to few bits, with float arithmetic."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, bits: int) -> None:
        super().__init__()
        self.layer = layer
        self.weight_top = 2 ** (bits - 1) - 1
        self.input_top = 2**bits - 1
        each = layer.weight.detach().abs().flatten(1).mean(1)
        shape = (-1,) + (1,) * (layer.weight.dim() - 1)
        self.weight_step = nn.Parameter((2 * each / math.sqrt(self.weight_top)).reshape(shape))
        self.input_step = nn.Parameter(torch.ones(()))
        self.input_offset = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Makes the input's steps reach from its least to its greatest value."""
        low, high = x.float().aminmax()
        self.input_step.copy_((high - low).clamp(min=1e-6) / self.input_top)
        self.input_offset.copy_(low)

    def quantized_weight(self) -> Tensor:
        weight = self.layer.weight
        step = scale_gradient(self.weight_step, gradient_factor(weight[0].numel(), self.weight_top))
        codes = straight_round((weight / step).clamp(-self.weight_top - 1, self.weight_top))
        return codes * step

    def quantized_input(self, x: Tensor) -> Tensor:
        factor = gradient_factor(x.numel(), self.input_top)
        step, offset = scale_gradient(self.input_step, factor), scale_gradient(self.input_offset, factor)
        codes = straight_round(((x - offset) / step).clamp(0, self.input_top))
        return codes * step + offset

    def forward(self, x: Tensor) -> Tensor:
        x, weight, layer = self.quantized_input(x), self.quantized_weight(), self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def quantize(module: nn.Module, bits: int) -> None:
    """Replaces every linear layer and convolution below the module."""
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.Linear, nn.Conv2d)):
            setattr(module, name, FakeQuantized(child, bits))
        else:
            quantize(child, bits)


@torch.no_grad()
def calibrate(module: nn.Module, images: Tensor) -> None:
    """Sets the step sizes of all inputs from one batch."""
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: layer.observe(inputs[0]))
        for layer in module.modules()
        if isinstance(layer, FakeQuantized)
    ]
    module(images)
    for hook in hooks:
        hook.remove()
