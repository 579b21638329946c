"""Weights and inputs that need no file: numbers from a hash of a tensor's name and an element's index.

Full-size models are too large to commit. Instead every element is a function of the tensor's name (the original DETR
name, for example `transformer.encoder.layers.0.self_attn.in_proj_weight`) and of its index in PyTorch's row-major
layout, so PyTorch here and Rust there (`qdetr::rng::hashed_uniform`) make the same model, bit for bit, from nothing.

The generator, all in wrapping 32-bit unsigned arithmetic:

    mix(x)  = x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16
    seed    = 32-bit FNV-1a of the name's UTF-8 bytes (offset basis 0x811c9dc5, prime 0x01000193)
    bits    = mix(seed ^ mix(index + 0x9e3779b9))
    uniform = ((bits >> 8) - 2^23) / 2^23

The result is one of 2^24 equally spaced numbers in [-1, 1), each exact in f32. `VECTORS` below holds test vectors.

The rule that turns `u = hashed_uniform(name, index)` into a weight, by the name's last part and the tensor's shape
(every product and sum is one f32 operation; the scale is computed in f64 and rounded once to f32):

    running_var                      1 + 0.5 u
    running_mean                     0.25 u
    weight of a norm (one dimension) 1 + 0.5 u
    bias, in_proj_bias               0.2 u
    query_embed.weight               2 sqrt(3) u
    any other weight                 gain * sqrt(3 / fan_in) u,   fan_in = product of all dimensions but the first

`gain` is the standard deviation that the weight gives to its output when the input has mean square 1. `GAINS` holds it
by a part of the name, the first that fits; 1 elsewhere. The values keep feature maps at a standard deviation of order 1
in every backbone and make attention far from uniform and the answers differ between queries: with PyTorch's usual
initialization all queries of an untrained DETR say the same, and a comparison of their outputs proves nothing.

Inputs: `pixel_values` is 2 u, the range of normalized pixels.
"""

import math

import numpy as np
import torch

GAINS = (
    ("multihead_attn.in_proj_weight", 2.0),
    ("multihead_attn.out_proj", 4.0),
    ("self_attn.in_proj_weight", 1.5),
    ("self_attn.out_proj", 0.3),
    ("linear2", 0.5),
    ("bbox_embed", 1.5),
    ("backbone.0.body.features", 1.1),
    ("backbone", 0.9),
)
"""The gain of a weight by a part of its original name; the first that fits counts."""

VECTORS = [
    ("", 0, 7174405),
    ("pixel_values", 0, 1774986),
    ("pixel_values", 1, 5763426),
    ("query_embed.weight", 4095, 6047269),
    ("query_embed.weight", 2**32 - 1, 8298023),
]
"""(name, index, the uniform times 2^23)."""


def _mix(x):
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _fnv1a(name):
    state = 0x811C9DC5
    for byte in name.encode():
        state = ((state ^ byte) * 0x01000193) & 0xFFFFFFFF
    return np.uint32(state)


def hashed_uniform(name, indices):
    """f32 numbers in [-1, 1), one for each of the given element indices."""
    indices = np.asarray(indices, dtype=np.uint32)
    bits = _mix(_fnv1a(name) ^ _mix(indices + np.uint32(0x9E3779B9)))
    return ((bits >> np.uint32(8)).astype(np.int32) - (1 << 23)).astype(np.float32) / np.float32(1 << 23)


def _gain(name):
    return next((gain for part, gain in GAINS if part in name), 1.0)


def hashed_tensor(name, shape):
    """The weight or buffer of that original DETR name, by the rule above."""
    uniform = hashed_uniform(name, np.arange(math.prod(shape), dtype=np.uint32)).reshape(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "running_mean":
        values = np.float32(0.25) * uniform
    elif last == "running_var" or (last == "weight" and len(shape) == 1):
        values = np.float32(1.0) + np.float32(0.5) * uniform
    elif last in ("bias", "in_proj_bias"):
        values = np.float32(0.2) * uniform
    elif name == "query_embed.weight":
        values = np.float32(2.0 * math.sqrt(3.0)) * uniform
    else:
        values = np.float32(_gain(name) * math.sqrt(3.0 / math.prod(shape[1:]))) * uniform
    assert values.dtype == np.float32
    return torch.from_numpy(values)


def hashed_pixels(batch, height, width):
    """A deterministic normalized image batch `[B, 3, H, W]` in [-2, 2)."""
    shape = (batch, 3, height, width)
    uniform = hashed_uniform("pixel_values", np.arange(math.prod(shape), dtype=np.uint32)).reshape(shape)
    return torch.from_numpy(np.float32(2.0) * uniform)


def fill(model):
    """Overwrites every parameter and buffer of a model with its hashed tensor; returns the model."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(hashed_tensor(name, tuple(tensor.shape)))
    return model


for _name, _index, _scaled in VECTORS:
    assert hashed_uniform(_name, [_index])[0] * 2**23 == _scaled, f"the generator is broken at {_name!r}, {_index}"


if __name__ == "__main__":
    # The first and the last element of one tensor of each kind, as bits: the test vectors of `src/rng.rs`.
    for _name, _shape in (
        ("backbone.0.body.conv1.weight", (64, 3, 7, 7)),
        ("backbone.0.body.bn1.weight", (64,)),
        ("backbone.0.body.bn1.running_mean", (64,)),
        ("backbone.0.body.bn1.running_var", (64,)),
        ("backbone.0.body.features.1.conv.0.0.weight", (32, 1, 3, 3)),
        ("input_proj.weight", (64, 2048, 1, 1)),
        ("transformer.encoder.layers.0.self_attn.in_proj_weight", (192, 64)),
        ("transformer.encoder.layers.0.self_attn.in_proj_bias", (192,)),
        ("transformer.decoder.layers.1.multihead_attn.out_proj.weight", (64, 64)),
        ("query_embed.weight", (10, 64)),
        ("bbox_embed.layers.2.weight", (4, 64)),
    ):
        _bits = hashed_tensor(_name, _shape).flatten()[[0, -1]].numpy().view(np.uint32)
        print(f'            ("{_name}", &{list(_shape)}, {_bits[0]:#010x}, {_bits[1]:#010x}),')
