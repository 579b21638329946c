"""Writes `quantized_detr.safetensors`: a small DETR in fake quantization, its answers and gradients, from PyTorch's autograd.

    pip install -r tests/golden/requirements.txt
    python tests/golden/quantized_detr.py --out assets/golden/train/quantized_detr.safetensors

Quantizers are those of `quantizer.py`. They sit where Rust's preset `executable` has them: on the weights of every linear layer and
convolution, one step size a row, and on its input, one for the tensor; on queries, keys, values and the attention map, one a
head. Weights and activations have 4 bits, attention 8, and the first layer and the heads 8.

    pixel_mask                 [2, H, W] u8, 1 on the image; the input is hashed_pixels(2, H, W) times the mask
    all_logits, all_boxes      [layers, 2, N, classes + 1] and [layers, 2, N, 4]
    float_logits               all_logits of the same model without quantizers
    param/<quantizer>.alpha    step sizes, and `.zero_point`, under Rust's names: a layer's own name for its weights, `<layer>.act` for
                               its input, `<attention>.{q,k,v,map}_act`
    grad/<parameter>           the gradient of sum(all_logits * d_logits + all_boxes * d_boxes), the two hashed by these names,
                               for every step size and zero point and for a few weights, in PyTorch's layout

Metadata: `config`, with `quantization` and in it the quantizers that are unsigned. All other weights are hashed (see `hashed.py`).

Everything is computed in f64 from f32 numbers and rounded once. One code that f32 decides otherwise would change all that
follows, so step sizes are chosen, one quantizer after the other, so that no element lies near a boundary; then the script
asserts that PyTorch's f32 agrees.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from detr import Attention, Detr, detr_config
from hashed import fill, hashed_pixels, hashed_uniform
from quantizer import limits, quantized

HEIGHT, WIDTH = 48, 64
RESNET = {"block": "bottleneck", "depths": [1, 1, 1, 1], "stem": 8, "widths": [16, 32, 48, 64], "dilated_c5": True}
SIZES = {"d_model": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "ffn": 64, "queries": 6, "classes": 5}
CONFIG = detr_config({"resnet": RESNET}, **SIZES)
WEIGHTS, ACTIVATIONS, ATTENTION, FIRST_AND_LAST = 4, 4, 8, 8

SHARE = 0.85
"""The part of a tensor's range that is not clipped."""
NEAR, NEAR_EXACT = 5e-6, 2e-7
"""How near to a boundary between codes no element should lie, in parts of the largest level; of numbers that are exact in f32."""
TRIES = 1024

GRADIENTS = (
    "backbone.0.body.conv1.weight",
    "backbone.0.body.layer2.0.downsample.0.weight",
    "backbone.0.body.layer4.0.conv2.weight",
    "input_proj.weight",
    "transformer.encoder.layers.0.self_attn.q_proj.weight",
    "transformer.encoder.layers.0.linear1.weight",
    "transformer.decoder.layers.1.multihead_attn.v_proj.weight",
    "transformer.decoder.layers.1.linear2.bias",
    "query_embed.weight",
    "class_embed.weight",
    "bbox_embed.layers.2.weight",
)


def single(x):
    """A number rounded to f32."""
    return float(np.float32(x))


def clearance(x, alpha, zero, low, high):
    """How near to a boundary between two codes or to the ends of the range an element lies, in parts of the largest level; but for
    elements that are exactly 0.

    Where 0 is the lowest level, small numbers (of attention maps, behind a ReLU) lie at that end, and their sign says on which side."""
    x = x[x != 0]
    u = x / alpha + zero
    ends = (u - high).abs() if zero == low else torch.minimum((u - low).abs(), (u - high).abs())
    boundaries = ((u - 0.5) - (u - 0.5).round()).abs()
    inside = (u > low) & (u < high)
    inner = boundaries[inside].min().item() if inside.any() else 1.0
    return min(ends.min().item(), inner) / (x.abs().max().item() / alpha + abs(zero))


def step_size(x, low, high, has_zero, near):
    """A step size and a zero point for elements that share one: the first that is clear enough, or else the clearest."""
    least, largest = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    if least == largest:
        return 1.0, 0.25
    best = (-1.0, 0.0, 0.0)
    for attempt in range(TRIES):
        share = SHARE * (1 + attempt / 1024)
        if has_zero:
            alpha = single(share * (largest - least) / (high - low))
            zp = single(min(max(low - share * least / alpha + 0.25, low), high))
        else:
            alpha, zp = single(share * max(largest / high, least / low)), 0.0
        best = max(best, (clearance(x, alpha, round(zp), low, high), alpha, zp))
        if best[0] > near:
            break
    return best[1:]


class Quantizer(nn.Module):
    """Fake quantization; step sizes are chosen by the first tensor that comes."""

    def __init__(self, kind, bits, groups=1, signed=None, near=NEAR):
        super().__init__()
        self.kind, self.bits, self.groups, self.signed, self.near = kind, bits, groups, signed, near
        self.has_zero = kind != "rows"
        self.alpha = self.zp = None

    def inner(self, x):
        """How many neighbouring elements share a step size."""
        return {
            "tensor": lambda: x.numel(),
            "rows": lambda: x.numel() // self.groups,
            "heads": lambda: x.shape[-1] // self.groups,
            "maps": lambda: x.shape[-2] * x.shape[-1],
        }[self.kind]()

    def fit(self, x):
        """Chooses step sizes for x [.., groups, inner]."""
        if self.signed is None:
            self.signed = x.min().item() < -1e-5
        low, high = limits(self.bits, self.signed)
        found = [step_size(x[:, group], low, high, self.has_zero, self.near) for group in range(self.groups)]
        self.alpha = nn.Parameter(torch.tensor([[alpha] for alpha, _ in found], dtype=x.dtype))
        if self.has_zero:
            self.zp = nn.Parameter(torch.tensor([[zp] for _, zp in found], dtype=x.dtype))

    def forward(self, x):
        spread = x.reshape(-1, self.groups, self.inner(x))
        if self.alpha is None:
            self.fit(spread.detach())
        low, high = limits(self.bits, self.signed)
        zp = self.zp if self.has_zero else torch.zeros_like(self.alpha)
        return quantized(spread, self.alpha, zp, low, high)[1].reshape(x.shape)


def weight_quantizer(bits, rows):
    """That of weights."""
    return Quantizer("rows", bits, rows, signed=True, near=NEAR_EXACT)


class Layer(nn.Module):
    """A convolution or a linear layer of quantized operands."""

    def __init__(self, layer, weights, activations, near=NEAR):
        super().__init__()
        self.layer = layer
        self.weights = weight_quantizer(weights, len(layer.weight))
        self.act = Quantizer("tensor", activations, near=near)

    def forward(self, x):
        x, weight = self.act(x), self.weights(self.layer.weight)
        if isinstance(self.layer, nn.Conv2d):
            layer = self.layer
            return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation)
        return F.linear(x, weight, self.layer.bias)


class QuantizedAttention(nn.Module):
    """Multi-head attention of quantized operands."""

    def __init__(self, attention):
        super().__init__()
        self.attention, self.heads = attention, attention.num_heads
        width = attention.embed_dim
        self.inputs = nn.ModuleList([Quantizer("tensor", ACTIVATIONS) for _ in range(3)])
        self.weights = nn.ModuleList([weight_quantizer(WEIGHTS, width) for _ in range(3)])
        self.tokens = nn.ModuleList([Quantizer("heads", ATTENTION, self.heads, signed=True) for _ in range(3)])
        self.map = Quantizer("maps", ATTENTION, self.heads, signed=False)
        self.output = Layer(attention.out_proj, WEIGHTS, ACTIVATIONS)

    def project(self, index, x):
        """Queries, keys or values `[B, heads, L, channels of a head]`."""
        weight = self.attention.in_proj_weight.chunk(3)[index]
        bias = self.attention.in_proj_bias.chunk(3)[index]
        y = F.linear(self.inputs[index](x), self.weights[index](weight), bias)
        batch, length, _ = y.shape
        return self.tokens[index](y).reshape(batch, length, self.heads, -1).transpose(1, 2)

    def forward(self, query, key, value, padding=None):
        q, k, v = (self.project(index, x) for index, x in enumerate((query, key, value)))
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None], float("-inf"))
        attention = self.map(logits.softmax(-1))
        return self.output((attention @ v).transpose(1, 2).flatten(2)), attention


def quantize(model):
    """Puts quantizers into a model; returns them by Rust's names."""
    found = {}
    for name, module in list(model.named_modules()):
        if name.endswith("out_proj"):
            continue
        parent, _, last = name.rpartition(".")
        if isinstance(module, Attention):
            replaced = QuantizedAttention(module)
            for index, part in enumerate("qkv"):
                found[f"{name}.{part}_proj"] = replaced.weights[index]
                found[f"{name}.{part}_proj.act"] = replaced.inputs[index]
                found[f"{name}.{part}_act"] = replaced.tokens[index]
            found[f"{name}.map_act"] = replaced.map
            found[f"{name}.out_proj"], found[f"{name}.out_proj.act"] = replaced.output.weights, replaced.output.act
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            is_stem = name == "backbone.0.body.conv1"
            few = not is_stem and not name.startswith(("class_embed", "bbox_embed"))
            bits = (WEIGHTS, ACTIVATIONS) if few else (FIRST_AND_LAST, FIRST_AND_LAST)
            replaced = Layer(module, *bits, near=NEAR_EXACT if is_stem else NEAR)
            found[name], found[f"{name}.act"] = replaced.weights, replaced.act
        else:
            continue
        setattr(model.get_submodule(parent), last, replaced)
    return found


def weights(model):
    """The parameters of a float model by Rust's names: each with the part of its first dimension that it is, of three."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".in_proj_" in name:
            block, kind = name.split("in_proj_")
            found |= {f"{block}{part}_proj.{kind}": (parameter, index) for index, part in enumerate("qkv")}
        else:
            found[name] = (parameter, None)
    return found


def inputs(dtype):
    """Pixels and mask."""
    mask = torch.ones(2, HEIGHT, WIDTH, dtype=torch.uint8)
    mask[1, 30:], mask[1, :, 45:] = 0, 0
    return (hashed_pixels(2, HEIGHT, WIDTH) * mask[:, None]).to(dtype), mask


def hashed(name, like):
    """Hashed numbers of a shape."""
    count = like.numel()
    return torch.from_numpy(hashed_uniform(name, np.arange(count, dtype=np.uint32))).to(like.dtype).view(like.shape)


def answers(model, dtype, parameters):
    """Logits, boxes, and the gradients of parameters, a dict by name of a parameter and the third that is meant."""
    out = model(*inputs(dtype))
    logits, boxes = out["all_logits"], out["all_boxes"]
    loss = (logits * hashed("d_logits", logits)).sum() + (boxes * hashed("d_boxes", boxes)).sum()
    whole = list({id(parameter): parameter for parameter, _ in parameters.values()}.values())
    gradients = dict(zip(map(id, whole), torch.autograd.grad(loss, whole)))
    thirds = {name: (gradients[id(parameter)], third) for name, (parameter, third) in parameters.items()}
    return logits, boxes, {name: g if third is None else g.chunk(3)[third] for name, (g, third) in thirds.items()}


def named(float_weights, quantizers):
    """The parameters whose gradients are written."""
    found = {name: float_weights[name] for name in GRADIENTS}
    for name, quantizer in quantizers.items():
        found[f"{name}.alpha"] = (quantizer.alpha, None)
        if quantizer.has_zero:
            found[f"{name}.zero_point"] = (quantizer.zp, None)
    return found


def build(dtype, like=None):
    """The model with quantizers, its float parameters and the quantizers by name; step sizes are those of `like`, if given."""
    model = fill(Detr(CONFIG)).to(dtype).eval()
    parameters = weights(model)
    quantizers = quantize(model)
    for name, quantizer in (like or {}).items():
        own = quantizers[name]
        own.signed, own.alpha = quantizer.signed, nn.Parameter(quantizer.alpha.detach().to(dtype))
        if own.has_zero:
            own.zp = nn.Parameter(quantizer.zp.detach().to(dtype))
    return model, parameters, quantizers


def relative(left, right, floor=0.0):
    """The largest difference of two tensors, as part of the largest value of the second (or of the floor)."""
    return ((left.double() - right.double()).abs().max() / right.double().abs().max().clamp(min=floor)).item()


def kind(name):
    """Step sizes, zero points and weights have gradients of different sizes."""
    last = name.rpartition(".")[2]
    return last if last in ("alpha", "zero_point") else "weight"


@torch.no_grad()
def float_logits():
    """The answers without quantizers."""
    return fill(Detr(CONFIG)).double().eval()(*inputs(torch.float64))["all_logits"]


def check(logits, boxes, gradients, quantizers):
    """Asserts that PyTorch's f32 agrees, and that there is something to agree on."""
    model, parameters, own = build(torch.float32, quantizers)
    with_single = answers(model, torch.float32, named(parameters, own))
    scales = {}
    for name, gradient in gradients.items():
        scales[kind(name)] = max(scales.get(kind(name), 0.0), gradient.abs().max().item())
    worst = max((relative(with_single[2][name], g, 1e-2 * scales[kind(name)]), name) for name, g in gradients.items())
    differs = max(relative(with_single[0], logits), relative(with_single[1], boxes))
    print(f"f32 differs by {differs:.1e}, in gradients by {worst[0]:.1e} ({worst[1]})")
    assert differs < 2e-5 and worst[0] < 2e-4
    quantization = relative(logits, float_logits())
    between = logits.std(2).mean().item(), boxes.std(2).mean().item()
    print(f"quantization moves logits by {quantization:.2f}; std between queries {between[0]:.2f} (logits), {between[1]:.3f} (boxes)")
    assert quantization > 0.02 and between[0] > 0.05 and between[1] > 0.02
    nothing = [name for name, gradient in gradients.items() if gradient.abs().max() < 1e-6 * scales[kind(name)]]
    print(f"{len(gradients)} gradients, nothing in {nothing}")
    assert len(nothing) < len(gradients) / 4


def main():
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file to write")
    path = parser.parse_args().out
    model, parameters, quantizers = build(torch.float64)
    with torch.no_grad():
        model(*inputs(torch.float64))  # Chooses step sizes.
    logits, boxes, gradients = answers(model, torch.float64, named(parameters, quantizers))
    check(logits, boxes, gradients, quantizers)
    tensors = {"all_logits": logits, "all_boxes": boxes, "float_logits": float_logits()}
    for name, quantizer in quantizers.items():
        tensors[f"param/{name}.alpha"] = quantizer.alpha.flatten()
        if quantizer.has_zero:
            tensors[f"param/{name}.zero_point"] = quantizer.zp.flatten()
    for name, gradient in gradients.items():
        is_quantizers = name.endswith((".alpha", ".zero_point"))
        tensors[f"grad/{name}"] = gradient.flatten() if is_quantizers else gradient
    tensors = {name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()}
    tensors["pixel_mask"] = inputs(torch.float32)[1]
    unsigned = [name for name, quantizer in quantizers.items() if quantizer.kind == "tensor" and not quantizer.signed]
    bits = f"{WEIGHTS}-{ACTIVATIONS}-{ATTENTION}"
    config = {**CONFIG, "quantization": {"bits": bits, "preset": "executable", "unsigned": sorted(unsigned)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    path.chmod(0o644)
    print(f"{len(quantizers)} quantizers, {len(unsigned)} of them unsigned; {path.stat().st_size} bytes")
    assert path.stat().st_size < 300_000


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
