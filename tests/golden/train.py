"""Writes the training goldens: losses, matchings, gradients and optimizer steps of small models.

    pip install -r tests/golden/requirements.txt
    python tests/golden/train.py --out assets/golden/train

For each of `detr` and `smca` (see `smca.py`) there are two files. `<kind>_model.safetensors` holds the weights at the start,
with original DETR names, in PyTorch's layout, and the configuration in the metadata entry `config`. `<kind>.safetensors`:

    pixel_mask                     [2, H, W] u8, 1 on the image; the input is hashed_pixels(2, H, W) times the mask
    target/boxes, target/labels    [3, 4] cxcywh and [3] i64: the objects of the first image; the second image has none
    all_logits, all_boxes          [layers, 2, N, classes + 1] and [layers, 2, N, 4]
    match/<layer>/queries, .../objects       [3] i64, which query got which object, in the order of the queries
    loss/<layer>/class, .../l1, .../giou     [] unweighted terms
    loss/total                     [] the weighted sum over terms and layers
    empty/<layer>/class            [] the class term when neither image has objects (the other two are 0)
    output_grad/all_logits, output_grad/all_boxes    the gradients of loss/total with respect to these outputs
    grad/<parameter>               the gradient of loss/total, also of the stem and layer1, which DETR never trains; some
                                   are zero by nature and then rounding: key biases, and in the first decoder layer, whose
                                   input is zero, self_attn.in_proj_weight and the query part of its bias
    steps/<run>/loss               [11] total loss before each of ten AdamW steps and behind the last
    steps/<run>/grad_norm          [10] global norm before clipping, over what is trained

Metadata: `config`; `runs`, a JSON object from run to its settings: `lr`, `lr_backbone`, `weight_decay`, `clip`, betas 0.9 and
0.999, epsilon 1e-8. As in the original, the stem and `layer1` are frozen, decay applies to every trained parameter, and the
gradient is clipped by its global norm. The run `published` has the published settings, `strong` large ones, under which each
detail of the optimizer shows in the losses. No dropout.

`mobilenet_v2.safetensors` checks the other backbone at its real width without its 2 M gradients: for the hashed model (see
`hashed.py`) with the same objects and pixels, per parameter `grad/<parameter>` = [L2 norm, dot product with
hashed_uniform("probe", i) over the gradient's elements], and `loss/total`.

Everything is computed in f64 from f32 weights and rounded once; the script asserts that PyTorch's own f32 agrees, that no
matching hangs on rounding, that DETR's losses equal those of Hugging Face's code, and that wrong optimizers would be seen.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

import hugging_face
from criterion import CLASS_WEIGHT, GIOU_WEIGHT, L1_WEIGHT, criterion
from detr import Detr
from hashed import fill, hashed_pixels, hashed_uniform
from models import HASHED, resnet, small
from smca import Smca

HEIGHT, WIDTH = 128, 160
CONFIG = small(resnet("basic", 16, [16, 24, 32, 40], [1, 1, 1, 1]), heads=8, encoder_layers=1, ffn=64, queries=10, classes=6)
STEPS = 10
RUNS = {
    "published": {"lr": 1e-4, "lr_backbone": 1e-5, "weight_decay": 1e-4, "clip": 0.1},
    "strong": {"lr": 2e-4, "lr_backbone": 5e-5, "weight_decay": 1.0, "clip": 0.1},
}
WRONG = {
    "one learning rate": {"lr_backbone": 2e-4},
    "no decay": {"weight_decay": 0.0},
    "no clipping": {"clip": 1e9},
}
"""Mistakes that the run `strong` must show."""

NO_GRADIENT = "transformer.decoder.layers.0.self_attn.in_proj_weight"
"""The first self-attention sees zeros, so all its values equal the bias: nothing else about it matters."""


def build(kind, dtype):
    """The small model with its weights at the start."""
    model = {"detr": Detr, "smca": Smca}[kind](CONFIG)
    state = model.state_dict()
    fill(model)
    for name, tensor in state.items():
        if name.endswith("point3.bias"):
            tensor += 1  # SMCA starts at 1; near 0 the prior would be flat and its gradient nothing.
    return model.to(dtype)


def inputs(dtype):
    """Pixels, mask and targets."""
    mask = torch.ones(2, HEIGHT, WIDTH, dtype=torch.uint8)
    mask[1, 100:], mask[1, :, 131:] = 0, 0
    pixels = hashed_pixels(2, HEIGHT, WIDTH) * mask[:, None]
    boxes = torch.tensor([[0.24, 0.4, 0.25, 0.3], [0.7, 0.35, 0.2, 0.5], [0.5, 0.75, 0.6, 0.24]])
    targets = [
        {"labels": torch.tensor([2, 0, 5]), "boxes": boxes.to(dtype)},
        {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4, dtype=dtype)},
    ]
    return pixels.to(dtype), mask, targets


def gradients(kind, model, dtype):
    """Outputs, the criterion's answers, and the gradient of every parameter by name; those of the outputs, as `out.<name>`."""
    pixels, mask, targets = inputs(dtype)
    out = model(pixels, mask)
    answers = criterion(kind, out["all_logits"], out["all_boxes"], targets)
    named = dict(model.named_parameters()) | {f"out.{name}": out[name] for name in ("all_logits", "all_boxes")}
    grads = dict(zip(named, torch.autograd.grad(answers[0], list(named.values()))))
    of_outputs = {name: grads.pop(name) for name in list(grads) if name.startswith("out.")}
    return out, answers, grads, of_outputs


def trained(name):
    """Whether the original trains a parameter."""
    return not name.startswith("backbone") or any(f"layer{stage}" in name for stage in (2, 3, 4))


def run_steps(kind, dtype, settings):
    """The losses and gradient norms of a few AdamW steps, and the smallest matching margin among them."""
    model = build(kind, dtype)
    pixels, mask, targets = inputs(dtype)
    named = [(name, parameter) for name, parameter in model.named_parameters() if trained(name)]
    groups = [
        {"params": [p for name, p in named if not name.startswith("backbone")]},
        {"params": [p for name, p in named if name.startswith("backbone")], "lr": settings["lr_backbone"]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], weight_decay=settings["weight_decay"])
    losses, norms, margins = [], [], []
    for step in range(STEPS + 1):
        out = model(pixels, mask)
        loss, _, _, margin = criterion(kind, out["all_logits"], out["all_boxes"], targets)
        losses.append(loss.item())
        margins.append(margin)
        if step == STEPS:
            break
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in named], settings["clip"]).item())
        optimizer.step()
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64), min(margins)


def relative(left, right, floor=0.0):
    """The largest difference of two tensors, as part of the largest value of the second (or of the floor)."""
    return ((left.double() - right.double()).abs().max() / right.double().abs().max().clamp(min=floor)).item()


def check_gradients(kind, grads):
    """Asserts that f32 gives the same gradients and that every parameter has one."""
    _, _, single, _ = gradients(kind, build(kind, torch.float32), torch.float32)
    largest = max(grad.abs().max().item() for grad in grads.values())
    worst = max((relative(single[name], grad, 1e-4 * largest), name) for name, grad in grads.items())
    print(f"{kind}: gradients up to {largest:.1e}, in f32 they differ from f64 by at most {worst[0]:.1e} ({worst[1]})")
    assert worst[0] < 3e-5
    without = [name for name, grad in grads.items() if grad.abs().max() < 1e-6 * largest]
    assert without == [NO_GRADIENT], f"parameters without gradient: {without}"


def check_against_hugging_face(out, targets, total):
    """Asserts that DETR's total loss is that of Hugging Face's code."""
    model = hugging_face.build(CONFIG, build("detr", torch.float32).state_dict(), list("abcdef"), timm=False)
    model.config.auxiliary_loss = True
    labels = [{"class_labels": target["labels"], "boxes": target["boxes"].float()} for target in targets]
    layers, boxes = out["all_logits"].float(), out["all_boxes"].float()
    theirs, _, _ = ForObjectDetectionLoss(layers[-1], labels, "cpu", boxes[-1], model.config, layers, boxes)
    print(f"detr: total loss {total:.6f}, by Hugging Face's code {theirs.item():.6f}")
    assert abs(theirs.item() - total) < 1e-4


def step_goldens(kind):
    """The optimizer runs, checked to be repeatable in f32 and able to show mistakes."""
    tensors = {}
    for name, settings in RUNS.items():
        losses, norms, margin = run_steps(kind, torch.float64, settings)
        off = (run_steps(kind, torch.float32, settings)[0] - losses).abs().max().item()
        print(f"{kind}/{name}: loss {losses[0]:.5f} -> {losses[-1]:.5f}, f32 differs by {off:.1e}, matching margin {margin:.1e}")
        assert off < 3e-5
        assert margin > 2e-3, "a matching hangs on rounding"
        tensors[f"steps/{name}/loss"], tensors[f"steps/{name}/grad_norm"] = losses, norms
    for mistake, change in WRONG.items():
        wrong, _, _ = run_steps(kind, torch.float64, {**RUNS["strong"], **change})
        shows = (wrong - tensors["steps/strong/loss"]).abs().max().item()
        print(f"{kind}: {mistake} would change a loss by {shows:.1e}")
        assert shows > 1e-3
    return tensors


def write(path, tensors, metadata):
    """Writes one file; f64 is rounded to f32."""
    tensors = {n: (t.float() if t.dtype == torch.float64 else t).detach().contiguous().clone() for n, t in tensors.items()}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)
    assert path.stat().st_size < 2_000_000


def write_kind(folder, kind):
    """Both files of one kind of model."""
    model = build(kind, torch.float64)
    out, (total, terms, matched, margin), grads, of_outputs = gradients(kind, model, torch.float64)
    _, mask, targets = inputs(torch.float64)
    assert margin > 1e-3, "the matching hangs on rounding"
    check_gradients(kind, grads)
    if kind == "detr":
        check_against_hugging_face(out, targets, total.item())
    nothing = [targets[1], targets[1]]
    _, empty, _, _ = criterion(kind, out["all_logits"], out["all_boxes"], nothing)
    tensors = {"pixel_mask": mask, "target/boxes": targets[0]["boxes"], "target/labels": targets[0]["labels"]}
    tensors |= {"all_logits": out["all_logits"], "all_boxes": out["all_boxes"], "loss/total": total}
    for layer, (losses, pairs) in enumerate(zip(terms, matched)):
        tensors |= {f"loss/{layer}/{term}": value for term, value in losses.items()}
        tensors |= {f"match/{layer}/queries": pairs[0][0], f"match/{layer}/objects": pairs[0][1]}
        tensors[f"empty/{layer}/class"] = empty[layer]["class"]
    tensors |= {f"grad/{name}": grad for name, grad in grads.items()}
    tensors |= {name.replace("out.", "output_grad/"): grad for name, grad in of_outputs.items()}
    tensors |= step_goldens(kind)
    weights = {"class": CLASS_WEIGHT[kind], "l1": L1_WEIGHT, "giou": GIOU_WEIGHT}
    metadata = {"config": json.dumps({"config": CONFIG, "runs": RUNS, "loss_weights": weights})}
    write(folder / f"{kind}.safetensors", tensors, metadata)
    write(folder / f"{kind}_model.safetensors", build(kind, torch.float32).state_dict(), {"config": json.dumps(CONFIG)})


def write_mobilenet(folder):
    """The summary of the gradients of a hashed MobileNetV2 detector."""
    config = HASHED["mobilenet_v2"]
    summaries = {}
    for dtype in (torch.float32, torch.float64):
        _, (total, _, _, margin), grads, _ = gradients("detr", fill(Detr(config)).to(dtype), dtype)
        assert margin > 1e-3
        summary = {"loss/total": total}
        for name, grad in grads.items():
            probe = torch.from_numpy(hashed_uniform("probe", range(grad.numel()))).double()
            flat = grad.flatten().double()
            summary[f"grad/{name}"] = torch.stack((flat.norm(), flat @ probe))
        summaries[dtype] = summary
    exact = summaries[torch.float64]
    floor = 1e-4 * max(value.max().item() for name, value in exact.items() if name != "loss/total")
    worst = max((relative(value, exact[name], floor), name) for name, value in summaries[torch.float32].items())
    print(f"mobilenet_v2: f32 differs from f64 by at most {worst[0]:.1e} ({worst[1]})")
    assert worst[0] < 3e-4
    write(folder / "mobilenet_v2.safetensors", exact, {"config": json.dumps(config)})


def main():
    """Writes everything below `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write into")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_kind(out, "detr")
    write_kind(out, "smca")
    write_mobilenet(out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
