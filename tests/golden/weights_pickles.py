"""Writes small `.pth` files with everything that a real one may contain, for the tests of the reader.

    pip install -r tests/golden/requirements.txt
    python tests/golden/weights_pickles.py

`odd.pth` and `odd_legacy.pth` (PyTorch's zip form and the older one) hold a bare state dict whose tensors are transposed,
sliced, expanded, shared, half, bfloat16, double, a parameter, an integer counter. `run.pth` is what the original DETR's training
script saves: model, optimizer, scheduler, epoch and its arguments. All numbers are counted, none are trained.
"""

import argparse
import pathlib
from collections import OrderedDict

import torch
from detr import Detr

OUT = pathlib.Path(__file__).parents[2] / "assets/golden/weights"


def odd():
    """The state dict of the odd files; `count` is 0, 1, …, 23."""
    count = torch.arange(24, dtype=torch.float32)
    body = "backbone.0.body."
    tensors = {
        "conv1.weight": count.reshape(2, 3, 2, 2),
        "conv1.channels_last": count.reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "transposed": count.reshape(4, 6).t(),
        "sliced": count[5:11:2],
        "expanded": torch.tensor([7.0]).expand(3),
        "half": (count[:4] / 2).half(),
        "bfloat16": (count[:4] / 2).bfloat16(),
        "double": count[:4].double() / 2,
        "parameter": torch.nn.Parameter(count[:3].clone()),
        "bn1.num_batches_tracked": torch.tensor(5),
    }
    state = OrderedDict((body + name, tensor) for name, tensor in tensors.items())
    state._metadata = OrderedDict({"": {"version": 1}})
    return state


def run():
    """A checkpoint as the original training script writes it."""
    torch.manual_seed(0)
    resnet = {"block": "basic", "depths": [1, 1, 1, 1], "stem": 4, "widths": [4, 4, 8, 8], "dilated_c5": True}
    config = {
        "backbone": {"resnet": resnet}, "d_model": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "ffn": 12, "queries": 3,
        "classes": 4,
    }
    model = Detr(config)
    optimizer = torch.optim.AdamW([{"params": [model.query_embed.weight], "lr": 1e-5}], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 200)
    model.query_embed.weight.sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(
        lr=1e-4, backbone="resnet18", dilation=True, position_embedding="sine", nheads=2, pre_norm=False, device="cuda", frozen_weights=None
    )
    return {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict(), "epoch": 3, "args": arguments,
    }


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    torch.save(odd(), OUT / "odd.pth")
    torch.save(odd(), OUT / "odd_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(run(), OUT / "run.pth")
    for file in sorted(OUT.glob("*.pth")):
        print(file.name, file.stat().st_size)
