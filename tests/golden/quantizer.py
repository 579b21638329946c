"""Writes `quantizer.safetensors`: quantizers and their straight-through gradients as PyTorch's autograd gives them.

    pip install -r tests/golden/requirements.txt
    python tests/golden/quantizer.py --out assets/golden/quantizer.safetensors

The quantizer is LSQ's with an integer zero point: rounding is passed straight through, gradients of step size and zero point
are scaled by 1 / sqrt(numel · Qp). Those two are functions of their own, since tricks with `detach` would move exact ties
by a rounding; autograd makes the rest of the gradients, no formula of theirs is written here. Element i of x belongs to step size `i / inner % groups`.

Tensors are `<case>/<tensor>`; the metadata entry `cases` is a JSON object from the case to `bits`, `signed`, `groups`, `inner`.

    x, d                  any shape: elements, and the gradient of their quantized values
    alpha, zp             [groups]; `zp` is missing for a quantizer without zero points
    codes                 i8 like x: levels, less half their number when they are unsigned
    values, d_x           like x
    d_alpha, d_zp         [groups]
    lsq_alpha             [1]: the step size that LSQ's rule starts from, 2 mean |x| / sqrt(Qp)

Numbers come from the hash in `hashed.py`. Everything is computed in f64 from f32 inputs and rounded once. An element of random
data that lies so near to a boundary between codes that f32 could decide otherwise is replaced by 0; cases named `ties` have
step sizes that are powers of two and lie exactly on the boundaries.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

from hashed import hashed_uniform

GRANULARITIES = {
    # name: (shape, groups, inner, signed, has zero points)
    "weights": ((4, 3, 3, 3), 4, 27, True, False),
    "rows": ((5, 12), 5, 12, True, False),
    "tensor": ((2, 3, 12), 1, 72, True, True),
    "unsigned": ((3, 5, 7), 1, 105, False, True),
    "heads": ((2, 3, 16), 4, 4, True, True),
    "maps": ((2, 3, 3, 5), 3, 15, False, True),
    "channels": ((2, 4, 10), 10, 1, False, True),
    "one_element": ((1,), 1, 1, True, True),
}
KINDS = {"random": (2, 3, 4, 6, 8), "ties": (2, 4, 8), "constant": (4,), "zero": (3,), "huge": (8,)}
"""Kinds of data, and the bits each is quantized to."""
NEAR = 1e-4
"""Distance in steps from a boundary between codes within which random data is not kept."""


def limits(bits, signed):
    """Least and largest level."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


class Round(torch.autograd.Function):
    """Rounding that gradients pass straight through."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, d):
        return d


class ScaledGradient(torch.autograd.Function):
    """Nothing, but gradients are multiplied with a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, d):
        return d * ctx.factor, None


def quantized(x, alpha, zp, low, high):
    """Levels and values of x [.., groups, inner] under alpha and zp [groups, 1]."""
    factor = 1 / math.sqrt(x.numel() * high)
    alpha = ScaledGradient.apply(alpha, factor)
    zp = Round.apply(ScaledGradient.apply(zp, factor))
    q = Round.apply((x / alpha + zp).clamp(low, high))
    return q, (q - zp) * alpha


def uniform(name, shape):
    """Hashed numbers in [-1, 1) of that shape, f64."""
    count = int(np.prod(shape))
    return torch.from_numpy(hashed_uniform(name, np.arange(count, dtype=np.uint32))).double().view(shape)


def f32(x):
    """x rounded to f32, as f64."""
    return x.float().double()


def data(case, kind, shape, alpha, zp, low, high):
    """x in [.., groups, inner]: about a third of it beyond the levels, where the kind allows."""
    if kind in ("constant", "zero"):
        return torch.full(shape, 0.7 if kind == "constant" else 0.0, dtype=torch.float64).float().double()
    reach = 0.75 * (high - low) * alpha
    x = f32((uniform(f"{case}/x", shape) - (zp.round() - (low + high) / 2) * alpha / reach) * reach)
    if kind == "huge":
        return f32(x * 1e25)
    if kind == "ties":
        # Multiples of half a step; where the step is a power of two all of this is exact.
        return (2 * x / alpha).round() * alpha / 2
    u = x / alpha + zp.round()
    boundary = (2 * u).round() / 2
    return torch.where((u - boundary).abs() < NEAR, torch.zeros_like(x), x)


def case_of(case, kind, granularity, bits):
    """The tensors and attributes of one case."""
    shape, groups, inner, signed, has_zero = GRANULARITIES[granularity]
    low, high = limits(bits, signed)
    spread = (math.prod(shape) // (groups * inner), groups, inner)
    if kind == "ties":
        alpha = 2.0 ** (-3 + torch.arange(groups, dtype=torch.float64) % 3).view(1, groups, 1)
    else:
        alpha = f32(0.3 + 0.1 * uniform(f"{case}/alpha", (1, groups, 1)))
    zp = torch.zeros(1, groups, 1, dtype=torch.float64)
    if has_zero:
        zp = f32((low + high) / 2 + 0.3 * (high - low) * uniform(f"{case}/zp", (1, groups, 1)))
    x = data(case, kind, spread, alpha, zp, low, high)
    d = uniform(f"{case}/d", spread)
    for leaf in (x, alpha, zp):
        leaf.requires_grad_()
    q, values = quantized(x, alpha, zp, low, high)
    (values * d).sum().backward()
    offset = 0 if signed else 2 ** (bits - 1)
    tensors = {
        "x": x.view(shape),
        "d": d.view(shape),
        "alpha": alpha.flatten(),
        "codes": (q.detach() - offset).to(torch.int8).view(shape),
        "values": values.view(shape),
        "d_x": x.grad.view(shape),
        "d_alpha": alpha.grad.flatten(),
        "lsq_alpha": (2 * x.abs().mean() / math.sqrt(high)).view(1),
    }
    if has_zero:
        tensors |= {"zp": zp.flatten(), "d_zp": zp.grad.flatten()}
    return tensors, {"bits": bits, "signed": signed, "groups": groups, "inner": inner}


def main():
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file to write")
    path = parser.parse_args().out
    tensors, attributes = {}, {}
    for granularity in GRANULARITIES:
        for kind, all_bits in KINDS.items():
            for bits in all_bits:
                case = f"{granularity}/{kind}/{bits}"
                found, attributes[case] = case_of(case, kind, granularity, bits)
                for name, tensor in found.items():
                    tensor = tensor.detach()
                    tensor = tensor if tensor.dtype == torch.int8 else tensor.float()
                    assert tensor.dtype == torch.int8 or tensor.isfinite().all(), f"{case}/{name}"
                    tensors[f"{case}/{name}"] = tensor.contiguous().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"cases": json.dumps(attributes)})
    path.chmod(0o644)
    print(f"{len(attributes)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
