"""Writes `layers.safetensors`: single layers with awkward shapes and values, as PyTorch computes them.

    pip install -r tests/golden/requirements.txt
    python tests/golden/layers.py --out assets/golden/layers.safetensors

Tensors are named `<layer>/<case>/<tensor>`. The file's metadata entry `cases` is a JSON object from `<layer>/<case>` to an
object of the layer's attributes, so a test can list all cases of a layer. Everything is in PyTorch's layout (NCHW,
weights `[out, in/groups, kh, kw]`), f32 except where said. The layers and their tensors:

    sine_positions   valid [B, h, w] u8 (1 on the image) -> output [B, channels, h, w]; `channels`
    resize_mask      valid [B, H, W] u8 -> output [B, h, w] u8, nearest neighbour; `size`
    attention        query [B, N, C], key, value [B, L, C], padding [B, L] u8 (1 = ignore; may be missing), in_proj_weight
                     [3C, C], in_proj_bias, out_proj.weight, out_proj.bias -> output [B, N, C], probabilities
                     [B, heads, N, L]; `heads`. This is nn.MultiheadAttention.
    layer_norm       input [..., C], weight, bias -> output; `eps`
    batch_norm       input [B, C, h, w], weight, bias, running_mean, running_var -> output; `eps`, frozen
    linear           input [..., C], weight, bias -> output
    conv2d           input, weight, bias (may be missing) -> output; `stride`, `padding`, `dilation`, `groups`
    max_pool2d       input -> output; `kernel`, `stride`, `padding`
    relu, relu6, sigmoid, softmax (last axis)       input -> output

Numbers come from the hash in `hashed.py`, so they do not depend on PyTorch's generators; outputs are computed in f64
from the f32 inputs and rounded once, so they favour no order of summation.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from detr import FrozenBatchNorm2d, sine_positions
from hashed import hashed_uniform

ATTENTION = {
    # case: (batch, queries, keys, width, heads, size of the values, kept keys in each image or None)
    "self_8_heads": (2, 11, 11, 32, 8, 1.0, None),
    "head_of_32": (1, 7, 29, 32, 1, 1.0, None),
    "padded": (3, 5, 23, 24, 4, 1.0, [23, 11, 1]),
    "one_key": (2, 3, 1, 16, 2, 1.0, None),
    "one_key_past_a_tile": (1, 1, 65, 20, 4, 1.0, [63]),
    "sharp": (1, 6, 19, 16, 2, 6.0, [17]),
}
CONV = {
    # case: (batch, in, height, width, out, kernel, stride, padding, dilation, groups, bias)
    "stem_7x7": (1, 3, 23, 31, 10, 7, 2, 3, 1, 1, False),
    "3x3": (2, 16, 7, 5, 20, 3, 1, 1, 1, 1, False),
    "3x3_stride_2": (1, 17, 13, 11, 19, 3, 2, 1, 1, 1, False),
    "3x3_stride_2_even": (1, 8, 12, 8, 8, 3, 2, 1, 1, 1, False),
    "dilated": (1, 16, 7, 9, 16, 3, 1, 2, 2, 1, False),
    "dilated_wider_than_the_map": (1, 8, 3, 2, 8, 3, 1, 4, 4, 1, False),
    "1x1": (2, 33, 5, 3, 65, 1, 1, 0, 1, 1, True),
    "1x1_stride_2": (1, 16, 7, 9, 32, 1, 2, 0, 1, 1, False),
    "one_pixel": (1, 5, 1, 1, 3, 3, 1, 1, 1, 1, True),
    "grouped": (1, 12, 6, 5, 18, 3, 1, 1, 1, 3, True),
    "depthwise": (2, 24, 9, 7, 24, 3, 1, 1, 1, 24, False),
    "depthwise_stride_2": (1, 33, 7, 10, 33, 3, 2, 1, 1, 33, False),
    "depthwise_5x5_dilated": (1, 6, 10, 9, 6, 5, 1, 4, 2, 6, True),
    "not_square": (1, 4, 9, 8, 5, (1, 5), (2, 1), (0, 2), 1, 1, True),
}
MASKS = {
    # case: (channels, height, width, kept rows and columns of each image)
    "whole": (32, 4, 5, [(4, 5)]),
    "padded": (12, 7, 9, [(7, 9), (5, 9), (7, 4), (1, 1)]),
    "one_cell": (16, 1, 1, [(1, 1)]),
    "full_width": (256, 3, 3, [(2, 3)]),
    "long": (8, 2, 43, [(2, 41)]),
}
RESIZE = {
    # case: (height, width, new height, new width, kept rows and columns)
    "stride_32": (97, 131, 4, 5, [(70, 101), (72, 104), (73, 105)]),
    "stride_16": (97, 131, 7, 9, [(70, 101)]),
    "rows_that_do_not_divide": (200, 67, 7, 3, [(172, 45)]),
}


def numbers(name, *shape, size=1.0):
    """Hashed f32 numbers of that shape in [-size, size)."""
    uniform = hashed_uniform(name, np.arange(int(np.prod(shape)), dtype=np.uint32)).reshape(shape)
    return torch.from_numpy(uniform * np.float32(size))


def rectangles(height, width, kept):
    """A mask `[B, height, width]` that keeps the upper left rectangle of each image."""
    mask = torch.zeros(len(kept), height, width, dtype=torch.uint8)
    for image, (rows, columns) in zip(mask, kept):
        image[:rows, :columns] = 1
    return mask


class Goldens:
    """Collects cases: their tensors and attributes."""

    def __init__(self):
        self.tensors, self.attributes = {}, {}

    def add(self, case, tensors, output, attributes=None):
        """Adds a case; f64 outputs are rounded to f32."""
        outputs = output if isinstance(output, dict) else {"output": output}
        for name, tensor in {**tensors, **outputs}.items():
            tensor = tensor.detach()
            tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
            assert tensor.dtype == torch.uint8 or tensor.isfinite().all(), f"{case}/{name}"
            self.tensors[f"{case}/{name}"] = tensor.contiguous().clone()
        self.attributes[case] = attributes or {}


def add_masks(goldens):
    """Position encodings and resized masks."""
    for case, (channels, height, width, kept) in MASKS.items():
        valid = rectangles(height, width, kept)
        # In f32: PyTorch's sums and divisions are part of what is compared.
        output = sine_positions(valid.bool(), channels)
        goldens.add(f"sine_positions/{case}", {"valid": valid}, output, {"channels": channels})
    for case, (height, width, new_height, new_width, kept) in RESIZE.items():
        valid = rectangles(height, width, kept)
        output = F.interpolate(valid[None].float(), size=(new_height, new_width))[0].to(torch.uint8)
        goldens.add(f"resize_mask/{case}", {"valid": valid}, output, {"size": [new_height, new_width]})


def add_attention(goldens):
    """nn.MultiheadAttention with packed projections."""
    for case, (batch, queries, keys, width, heads, size, kept) in ATTENTION.items():
        layer = nn.MultiheadAttention(width, heads, batch_first=True).double()
        state = {
            "in_proj_weight": numbers(f"{case}.in", 3 * width, width, size=1.7 * (3 / width) ** 0.5),
            "in_proj_bias": numbers(f"{case}.in_bias", 3 * width, size=0.3),
            "out_proj.weight": numbers(f"{case}.out", width, width, size=(3 / width) ** 0.5),
            "out_proj.bias": numbers(f"{case}.out_bias", width, size=0.3),
        }
        layer.load_state_dict(state)
        inputs = {
            "query": numbers(f"{case}.query", batch, queries, width, size=2 * size),
            "key": numbers(f"{case}.key", batch, keys, width, size=2),
            "value": numbers(f"{case}.value", batch, keys, width, size=2),
        }
        padding = None
        if kept is not None:
            padding = torch.arange(keys) >= torch.tensor(kept)[:, None]
            inputs["padding"] = padding.to(torch.uint8)
        q, k, v = (inputs[name].double() for name in ("query", "key", "value"))
        output, probabilities = layer(q, k, v, key_padding_mask=padding, average_attn_weights=False)
        results = {"output": output, "probabilities": probabilities}
        goldens.add(f"attention/{case}", {**inputs, **state}, results, {"heads": heads})


def add_norms(goldens):
    """Layer norms, among them rows that lose all digits when the mean is subtracted carelessly, and frozen batch norms."""
    rows = {"plain": (3, 5, 64), "width_256": (2, 256), "width_33": (7, 33), "far_from_zero": (4, 48), "nearly_constant": (4, 64)}
    for case, shape in rows.items():
        x = numbers(f"{case}.norm", *shape, size=3)
        if case == "far_from_zero":
            x = x + 1000
        if case == "nearly_constant":
            x = 0.5 + x * 1e-3
        weight, bias = 1 + numbers(f"{case}.weight", shape[-1], size=0.5), numbers(f"{case}.bias", shape[-1])
        output = F.layer_norm(x.double(), shape[-1:], weight.double(), bias.double(), 1e-5)
        goldens.add(f"layer_norm/{case}", {"input": x, "weight": weight, "bias": bias}, output, {"eps": 1e-5})
    for case, (shape, smallest) in {"plain": ((2, 19, 5, 3), 0.5), "tiny_variance": ((1, 8, 3, 4), 1e-6)}.items():
        norm = FrozenBatchNorm2d(shape[1])
        state = {
            "weight": 1 + numbers(f"{case}.bn_weight", shape[1], size=0.5),
            "bias": numbers(f"{case}.bn_bias", shape[1]),
            "running_mean": numbers(f"{case}.bn_mean", shape[1]),
            "running_var": smallest * (1.5 + numbers(f"{case}.bn_var", shape[1])),
        }
        norm.load_state_dict(state)
        x = numbers(f"{case}.bn", *shape, size=2)
        goldens.add(f"batch_norm/{case}", {"input": x, **state}, norm.double()(x.double()), {"eps": 1e-5})


def add_convolutions(goldens):
    """Convolutions and linear layers."""
    for case, (batch, inputs, height, width, outputs, kernel, stride, padding, dilation, groups, has_bias) in CONV.items():
        kernel, stride, padding = ((v, v) if isinstance(v, int) else v for v in (kernel, stride, padding))
        fan_in = inputs // groups * kernel[0] * kernel[1]
        tensors = {
            "input": numbers(f"{case}.input", batch, inputs, height, width, size=2),
            "weight": numbers(f"{case}.weight", outputs, inputs // groups, *kernel, size=(3 / fan_in) ** 0.5),
        }
        if has_bias:
            tensors["bias"] = numbers(f"{case}.conv_bias", outputs)
        x, weight, bias = (tensors[name].double() if name in tensors else None for name in ("input", "weight", "bias"))
        output = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        attributes = {"stride": stride, "padding": padding, "dilation": [dilation, dilation], "groups": groups}
        goldens.add(f"conv2d/{case}", tensors, output, attributes)
    for case, (rows, inputs, outputs) in {"plain": (33, 32, 92), "one_row": (1, 7, 1), "deep": (3, 515, 5)}.items():
        tensors = {
            "input": numbers(f"{case}.linear", rows, inputs, size=2),
            "weight": numbers(f"{case}.linear_weight", outputs, inputs, size=(3 / inputs) ** 0.5),
            "bias": numbers(f"{case}.linear_bias", outputs),
        }
        goldens.add(f"linear/{case}", tensors, F.linear(*(t.double() for t in tensors.values())))


def add_pools_and_activations(goldens):
    """Max pooling of negative maps (padding must never win), and activations at their bends and ends."""
    for case, shape in {"odd": (2, 5, 13, 9), "even": (1, 4, 8, 6), "one_pixel": (1, 3, 1, 1), "negative": (1, 4, 7, 7)}.items():
        x = numbers(f"{case}.pool", *shape, size=3) - (4 if case == "negative" else 0)
        attributes = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}
        goldens.add(f"max_pool2d/{case}", {"input": x}, F.max_pool2d(x, 3, 2, 1), attributes)
    edges = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 6.0, 5.9999995, 6.0000005, -6.0, 30.0, -30.0, 100.0, -100.0, 3e38, -3e38])
    x = torch.cat([edges, numbers("activation", 50, size=8)])
    for name, function in {"relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid}.items():
        goldens.add(f"{name}/edges", {"input": x}, function(x.double()))
    rows = torch.stack([numbers("softmax", 67, size=5), numbers("softmax", 67, size=5) + 3e4, numbers("softmax", 67, size=300)])
    goldens.add("softmax/rows", {"input": rows}, rows.double().softmax(-1))


def main():
    """Writes the file named by `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file to write")
    out = parser.parse_args().out
    goldens = Goldens()
    for add in (add_masks, add_attention, add_norms, add_convolutions, add_pools_and_activations):
        add(goldens)
    save_file(goldens.tensors, out, metadata={"cases": json.dumps(goldens.attributes)})
    print(f"{len(goldens.attributes)} cases, {out.stat().st_size} bytes")
    assert out.stat().st_size < 500_000


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
