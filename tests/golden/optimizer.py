"""Writes assets/golden/train/optimizer.safetensors: AdamW steps of PyTorch on three small tensors.

    pip install -r tests/golden/requirements.txt
    python tests/golden/optimizer.py --out assets/golden/train

Parameters start as `hashed_uniform(name, i)`; the gradient of a step is `SCALES[step] * hashed_uniform(f"{name}/{step}", i)`,
some of them short enough not to be clipped. Two groups: `backbone.w` has a tenth of the learning rate, the vector `z.bias` no
decay. From step 8 on all rates are a tenth. An exponential moving average is kept as `average`.

    params/<name>       [STEPS, elements] behind each step
    average/<name>      [elements] behind the last step
    m/<name>, v/<name>  [elements] behind the last step
    grad_norm           [STEPS] before clipping

Computed in f64 and rounded once; the script asserts that PyTorch's own f32 agrees.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file

from hashed import hashed_uniform

SHAPES = {"a.weight": (3, 43), "backbone.w": (65, 2), "z.bias": (64,)}
SCALES = [1.0, 0.01, 3.0, 0.002, 0.5, 1e-4, 20.0, 0.05, 1.0, 0.01, 0.3, 1e-3]
SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "betas": [0.9, 0.99], "epsilon": 1e-8, "max_norm": 0.5, "average": 0.9}
DROP_AT, DROP = 8, 0.1


def hashed(name, shape, dtype):
    count = torch.Size(shape).numel()
    return torch.from_numpy(hashed_uniform(name, range(count))).to(dtype).view(shape)


def run(dtype):
    """The tensors described at the head."""
    params = {name: torch.nn.Parameter(hashed(name, shape, dtype)) for name, shape in SHAPES.items()}
    lr, wd = SETTINGS["learning_rate"], SETTINGS["weight_decay"]
    groups = [
        {"params": [params["a.weight"]], "lr": lr, "weight_decay": wd},
        {"params": [params["backbone.w"]], "lr": lr / 10, "weight_decay": wd},
        {"params": [params["z.bias"]], "lr": lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=SETTINGS["betas"], eps=SETTINGS["epsilon"])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [DROP_AT], DROP)
    average = {name: p.detach().clone() for name, p in params.items()}
    after, norms = {name: [] for name in SHAPES}, []
    for step, scale in enumerate(SCALES):
        for name, p in params.items():
            p.grad = scale * hashed(f"{name}/{step}", SHAPES[name], dtype)
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), SETTINGS["max_norm"]))
        optimizer.step()
        schedule.step()
        decay = min(SETTINGS["average"], (1 + step) / (10 + step))
        for name, p in params.items():
            after[name].append(p.detach().flatten().clone())
            average[name] = decay * average[name] + (1 - decay) * p.detach()
    tensors = {f"params/{name}": torch.stack(values) for name, values in after.items()}
    for name, p in params.items():
        tensors |= {f"average/{name}": average[name].flatten()}
        tensors |= {f"m/{name}": optimizer.state[p]["exp_avg"].flatten(), f"v/{name}": optimizer.state[p]["exp_avg_sq"].flatten()}
    return tensors | {"grad_norm": torch.stack(norms)}


def main():
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write into")
    path = parser.parse_args().out / "optimizer.safetensors"
    exact, single = run(torch.float64), run(torch.float32)
    worst = max(((single[name] - value).abs().max() / value.abs().max()).item() for name, value in exact.items())
    print(f"f32 differs from f64 by at most {worst:.1e} of the largest element")
    assert worst < 1e-5
    settings = {**SETTINGS, "scales": SCALES, "drop_at": DROP_AT, "drop": DROP, "shapes": SHAPES}
    save_file({name: value.float().contiguous() for name, value in exact.items()}, path, metadata={"settings": json.dumps(settings)})
    path.chmod(0o644)


if __name__ == "__main__":
    main()
