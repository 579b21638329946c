"""Writes the model goldens: small DETRs with random weights in the formats found in the wild, and what PyTorch answers.

    pip install -r tests/golden/requirements.txt
    python tests/golden/models.py --out assets/golden/models

Every folder holds a model as its users have it on disk (a Hugging Face folder or an original `.pth`), and two files of
inputs and outputs: `io.safetensors`, a batch of two images of different sizes, the second one padded, and
`io_no_mask.safetensors`, two images that fill the batch, given without a mask. Tensors, PyTorch's layout, f32 unless said:

    pixel_values    [B, 3, H, W]
    pixel_mask      [B, H, W], i64 as Hugging Face makes it, 1 on the image, 0 on padding; only in io.safetensors
    feature_map     [B, C, h, w], the backbone's output
    encoder_memory  [B, h w, d], rows first; cells of padding hold numbers too
    decoder_hidden  [layers, B, N, d], every decoder layer behind the shared final norm, as the heads (and DETR's auxiliary
                    losses) see it; the last one gives logits and pred_boxes
    logits          [B, N, classes + 1]
    pred_boxes      [B, N, 4], cxcywh in 0..1; trained to mean parts of each image's own size, without its padding

Metadata of both files: `config`, the model's configuration as Rust's `ModelConfig` in JSON.

`hf_timm_bottleneck` has the very weights of `hf_bottleneck`, hence no such files: use those.

`hashed/` holds models of real width whose weights are not stored but hashed from their names (see `hashed.py`). There the
files have no `pixel_values` either: those are `hashed_pixels(1, 97, 131)`.

The script refuses to write a golden that proves little: it asserts that our own DETR and Hugging Face's agree to 1e-5, that
answers differ between queries and between images, that attention is far from uniform, that padding does not influence
the answers, and that each file stays small.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

import hugging_face
from detr import Detr, backbone_config, detr_config
from hashed import fill, hashed_pixels

OUTPUTS = ("feature_map", "encoder_memory", "decoder_hidden", "logits", "pred_boxes")
CLASS_NAMES = ["N/A", "person", "bicycle", "N/A", "traffic light", "dog", "café", "kite", "teddy bear", "toothbrush"]


def resnet(block, stem, widths, depths, dilated_c5=False):
    """The configuration of a narrow ResNet."""
    return {"resnet": {"block": block, "depths": depths, "stem": stem, "widths": widths, "dilated_c5": dilated_c5}}


def small(backbone, **changes):
    """The configuration of a small DETR."""
    sizes = {"d_model": 32, "heads": 4, "encoder_layers": 2, "decoder_layers": 2, "ffn": 80, "queries": 9, "classes": 7}
    return detr_config(backbone, **{**sizes, **changes})


BOTTLENECK = small(resnet("bottleneck", 64, [32, 48, 64, 96], [1, 2, 1, 2]))
BASIC = small(resnet("basic", 16, [16, 24, 32, 40], [2, 1, 1, 1]), heads=1, ffn=72, queries=11, classes=5)
DILATED = small(resnet("bottleneck", 64, [32, 48, 64, 80], [1, 1, 1, 3], True), ffn=64, queries=8, classes=3)
# Original checkpoints do not store the number of heads: this one has DETR's 8.
ORIGINAL = small(resnet("basic", 16, [16, 24, 32, 40], [1, 1, 1, 2]), heads=8, ffn=64, queries=12, classes=9)

TINY = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "ffn": 160, "queries": 10, "classes": 7}
HASHED = {
    "resnet18": detr_config(backbone_config("resnet18"), **TINY),
    "resnet34": detr_config(backbone_config("resnet34"), **TINY),
    "resnet50": detr_config(backbone_config("resnet50"), **TINY),
    "mobilenet_v2": detr_config(backbone_config("mobilenet_v2"), **TINY),
    "mobilenet_v2_stride16": detr_config(backbone_config("mobilenet_v2", stride=16), **TINY),
}


def padded_batch():
    """Two images, 97x131 and 70x101, the second one padded with zeros behind its normalization, and the mask."""
    mask = torch.ones(2, 97, 131, dtype=torch.int64)
    mask[1, 70:], mask[1, :, 101:] = 0, 0
    return hashed_pixels(2, 97, 131) * mask[:, None], mask


def whole_batch():
    """Two images of the batch's size, and a mask of ones."""
    return hashed_pixels(2, 50, 67), torch.ones(2, 50, 67, dtype=torch.int64)


def largest_difference(left, right):
    """The largest absolute difference over the outputs of two models."""
    return max((left[name] - right[name]).abs().max().item() for name in OUTPUTS)


def check_worth(name, model, result, mask, between_boxes=0.05):
    """Asserts that a result can tell a right implementation from a wrong one."""
    logits, boxes = result["logits"].std(1).mean().item(), result["pred_boxes"].std(1).mean().item()
    peaks = [(p.amax(-1) * (p > 0).sum(-1)).mean().item() for p in result["attention"]]
    print(f"{name}: std between queries {logits:.2f} (logits) {boxes:.3f} (boxes), attention peak / uniform {min(peaks):.1f}")
    assert logits > 0.05 and boxes > between_boxes, "the queries agree too much"
    assert min(peaks) > 1.5, "attention is nearly uniform"
    if len(result["logits"]) > 1:
        assert (result["logits"][0] - result["logits"][1]).abs().mean() > 0.05, "the images agree too much"
    valid = result["valid"]
    if not valid.all():
        disturbed = torch.where(valid[:, None], result["feature_map"], result["feature_map"] + 3)
        again = model.detect(disturbed, mask)
        assert (again["logits"] - result["logits"]).abs().max() < 1e-6, "padding influences the answers"
        unmasked = model.detect(result["feature_map"], torch.ones_like(mask))
        assert (unmasked["logits"] - result["logits"])[1].abs().max() > 1e-2, "the mask makes no difference"


def write(path, config, tensors):
    """Writes one safetensors file with the configuration in its metadata."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    assert path.stat().st_size < 1_500_000, f"{path} is too large to commit"


@torch.no_grad()
def write_io(folder, config, model, other=None):
    """Both input and output files of a model; `other` computes the same with Hugging Face's code."""
    for file, (pixels, mask) in (("io", padded_batch()), ("io_no_mask", whole_batch())):
        result = model(pixels, mask)
        check_worth(f"{folder.name}/{file}", model, result, mask)
        if other is not None:
            difference = largest_difference(hugging_face.run(other, pixels, mask), result)
            print(f"{folder.name}/{file}: differs from Hugging Face by {difference:.1e}")
            assert difference < 1e-5
        inputs = {"pixel_values": pixels, "pixel_mask": mask} if file == "io" else {"pixel_values": pixels}
        write(folder / f"{file}.safetensors", config, {**inputs, **{name: result[name] for name in OUTPUTS}})


def write_hugging_face(folder, config, timm):
    """A Hugging Face folder, and its inputs and outputs."""
    model = fill(Detr(config)).eval()
    names = CLASS_NAMES[: config["classes"]]
    other = hugging_face.build(config, model.state_dict(), names, timm)
    other.save_pretrained(folder)
    write_io(folder, config, model, type(other).from_pretrained(folder).eval())


def write_same_with_timm_names(folder, source):
    """The weights of the golden `source` with timm's names: a model and no inputs, since those of `source` fit."""
    model = fill(Detr(BOTTLENECK)).eval()
    other = hugging_face.build(BOTTLENECK, model.state_dict(), CLASS_NAMES[: BOTTLENECK["classes"]], timm=True)
    other.save_pretrained(folder)
    golden = load_file(source / "io.safetensors")
    result = hugging_face.run(type(other).from_pretrained(folder).eval(), golden["pixel_values"], golden["pixel_mask"])
    assert largest_difference(result, golden) < 1e-5


def write_original(folder, config):
    """Original checkpoints, `{"model": state}`: today's zip format, and the older one as saved on a GPU."""
    model = fill(Detr(config)).eval()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    location, torch.serialization.location_tag = torch.serialization.location_tag, lambda _storage: "cuda:0"
    torch.save({"model": model.state_dict()}, folder / "model_legacy.pth", _use_new_zipfile_serialization=False)
    torch.serialization.location_tag = location
    for file in ("model.pth", "model_legacy.pth"):
        assert (folder / file).stat().st_size < 1_500_000
        model.load_state_dict(torch.load(folder / file, map_location="cpu", weights_only=True)["model"])
    timm_needs_64 = config["backbone"]["resnet"]["stem"] == 64
    other = hugging_face.build(config, model.state_dict(), CLASS_NAMES[: config["classes"]], timm_needs_64)
    write_io(folder, config, model, other)


@torch.no_grad()
def write_hashed(path, config):
    """The outputs of a model whose weights and input are hashed."""
    model = fill(Detr(config)).eval()
    mask = torch.ones(1, 97, 131, dtype=torch.int64)
    result = model(hashed_pixels(1, 97, 131), mask)
    check_worth(path.stem, model, result, mask)
    spread = result["feature_map"].std().item()
    assert 0.3 < spread < 5, f"activations are not of order 1: {spread}"
    write(path, config, {name: result[name] for name in OUTPUTS})


def main():
    """Writes everything below `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write into")
    out = parser.parse_args().out
    write_hugging_face(out / "hf_bottleneck", BOTTLENECK, timm=False)
    write_hugging_face(out / "hf_basic", BASIC, timm=False)
    write_same_with_timm_names(out / "hf_timm_bottleneck", out / "hf_bottleneck")
    write_hugging_face(out / "hf_timm_dc5", DILATED, timm=True)
    write_original(out / "original_basic", ORIGINAL)
    for name, config in HASHED.items():
        write_hashed(out / "hashed" / f"{name}.safetensors", config)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{size / 1e6:.1f} MB in all")
    assert size < 6_000_000


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
