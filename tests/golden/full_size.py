"""Full-size DETR against this crate, without a single stored weight.

    pip install -r tests/golden/requirements.txt
    python tests/golden/full_size.py --model detr-resnet50 --device cuda --out out/full --weights
    qdetr forward --model out/full/model.pth --input out/full/io.safetensors --output out/full/ours.safetensors --hidden
    python tests/golden/full_size.py --model detr-resnet50 --device cuda --out out/full --compare out/full/ours.safetensors

The first command builds the model with hashed weights (see `hashed.py`; Rust's `rng::hashed_weight` makes the same), runs a
deterministic batch of one 800 x 1066 image in f32 with TF32 off, and writes `io.safetensors` with the tensors that
`models.py` documents. `--weights` adds the model itself, with the original DETR names, as `model.safetensors` and as
`model.pth`; the latter like the original training script writes it, with its arguments, among them `dilation`, which a
DC5 model needs because no tensor shows it.

`--compare` prints, for every output that both files have, the largest absolute difference, and exits with 1 when logits or
boxes differ by more than `--tolerance`. With `--f64` it also computes the model in f64 and shows how far each side is from
that, which tells rounding from a mistake.

`--time N` measures the forward, eager, after warm-up: median and smallest of N runs.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
from safetensors.torch import load_file, save_file

from detr import Detr, backbone_config, detr_config
from hashed import fill, hashed_pixels
from models import OUTPUTS

MODELS = {f"detr-{name}": backbone_config(name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2")}
MODELS |= {f"detr-{name}-dc5": backbone_config(name, dilated_c5=True) for name in ("resnet50", "resnet101")}


def exact_f32(device):
    """Turns off everything that would compute f32 in fewer bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    if device.startswith("cuda"):
        print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)


def synchronize(device):
    """Waits for the device, so that clocks tell the truth."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(model, pixels, mask, device, runs):
    """Prints how long the forward takes."""
    seconds = []
    for _ in range(runs + 5):
        synchronize(device)
        start = time.perf_counter()
        model(pixels, mask)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    seconds = seconds[5:]
    print(f"forward: median {statistics.median(seconds) * 1e3:.2f} ms, smallest {min(seconds) * 1e3:.2f} ms, of {runs}")


def compare(result, ours, exact, tolerance):
    """Prints the differences; True when logits and boxes are within the tolerance."""
    good = True
    for name in OUTPUTS:
        if name not in ours:
            print(f"{name}: not in the file")
            good &= name not in ("logits", "pred_boxes")
            continue
        mine, theirs = ours[name].double(), result[name].double().cpu()
        if mine.shape != theirs.shape:
            print(f"{name}: shape {list(mine.shape)}, expected {list(theirs.shape)}")
            good = False
            continue
        difference = (mine - theirs).abs().max().item()
        line = f"{name}: largest difference {difference:.2e}, largest value {theirs.abs().max().item():.2f}"
        if exact is not None:
            ours_off, torch_off = ((x - exact[name].cpu()).abs().max().item() for x in (mine, theirs))
            line += f", from f64: ours {ours_off:.2e}, PyTorch {torch_off:.2e}"
        print(line)
        # Not `difference > tolerance`: a NaN must fail.
        good &= name not in ("logits", "pred_boxes") or difference <= tolerance
    return good


def write(folder, config, model, inputs, result, weights):
    """Writes the inputs and outputs, and the model if asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"config": json.dumps(config)}
    tensors = {**inputs, **{name: result[name] for name in OUTPUTS}}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "io.safetensors", metadata=metadata)
    if weights:
        state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata=metadata)
        dilated = config["backbone"].get("resnet", {}).get("dilated_c5", False)
        arguments = argparse.Namespace(nheads=config["heads"], dilation=dilated)
        torch.save({"model": state, "args": arguments}, folder / "model.pth")


@torch.no_grad()
def main():
    """Runs one model, then writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="detr-resnet50")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for io.safetensors")
    parser.add_argument("--weights", action="store_true", help="write the model too")
    parser.add_argument("--compare", type=pathlib.Path, help="our outputs; nothing is written then")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--f64", action="store_true", help="with --compare: show the distance of both from f64")
    parser.add_argument("--time", type=int, default=0, metavar="N")
    options = parser.parse_args()

    exact_f32(options.device)
    config = detr_config(MODELS[options.model])
    model = fill(Detr(config)).eval().to(options.device)
    pixels = hashed_pixels(1, *options.size).to(options.device)
    mask = torch.ones(1, *options.size, dtype=torch.int64, device=options.device)
    result = model(pixels, mask)
    spread = [result[name].std(1).mean().item() for name in ("logits", "pred_boxes")]
    print(f"{options.model}: std between queries {spread[0]:.3f} (logits) {spread[1]:.4f} (boxes)")
    assert spread[0] > 0.03 and spread[1] > 0.005, "the queries agree too much"
    if options.time:
        measure(model, pixels, mask, options.device, options.time)
    if options.compare is None:
        write(options.out, config, model, {"pixel_values": pixels, "pixel_mask": mask}, result, options.weights)
        return
    exact = model.double()(pixels.double(), mask) if options.f64 else None
    if not compare(result, load_file(options.compare), exact, options.tolerance):
        sys.exit(f"differs by more than {options.tolerance}")


if __name__ == "__main__":
    main()
