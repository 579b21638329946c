"""Prints the names and shapes that each source of checkpoints gives its parameters, one file a source.

    python tests/golden/weights_names.py original DETR_CHECKOUT   # facebookresearch/detr at 29901c5
    python tests/golden/weights_names.py torchvision              # torchvision 0.20
    python tests/golden/weights_names.py transformers             # once with transformers 4.57, once with 5.23; needs timm

Needs torch; the original also pycocotools and scipy. Nothing is downloaded: all models are random. Writes assets/golden/weights/names_*.txt.
"""

import pathlib
import sys
import tempfile

OUT = pathlib.Path(__file__).parents[2] / "assets/golden/weights"


def write(source, state):
    OUT.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {list(shape)}\n" for name, shape in sorted(state.items())]
    (OUT / f"names_{source}.txt").write_text("".join(lines))
    print(source, len(lines))


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def original(checkout):
    import argparse

    import torchvision

    resnet = torchvision.models.resnet50
    # The backbone is asked for with downloaded weights; random ones have the same names.
    torchvision.models.resnet50 = lambda pretrained, **options: resnet(weights=None, **options)
    sys.path.insert(0, checkout)
    import main
    from models import build_model

    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    flags = "--device cpu --enc_layers 1 --dec_layers 2 --hidden_dim 16 --nheads 2 --dim_feedforward 8 --num_queries 5"
    model, _, _ = build_model(parser.parse_args(flags.split()))
    write("original_resnet50", shapes(model))


def torchvision_backbones():
    from torchvision.models import mobilenet_v2, resnet18

    write("torchvision_resnet18", shapes(resnet18()))
    write("torchvision_mobilenet_v2", shapes(mobilenet_v2()))


def transformers_models():
    import transformers
    from safetensors import safe_open
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    small = dict(
        d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, num_queries=5, num_labels=3, use_pretrained_backbone=False,
    )
    configs = {"timm": DetrConfig(use_timm_backbone=True, backbone="resnet18", **small)}
    for block in ("basic", "bottleneck"):
        resnet = ResNetConfig(
            embedding_size=4, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], layer_type=block, out_features=["stage4"]
        )
        configs[block] = DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=resnet, **small)
    five = transformers.__version__.startswith("5.")
    for kind, config in configs.items():
        model = DetrForObjectDetection(config)
        if five:
            write(f"transformers5_{kind}_in_memory", shapes(model))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            with safe_open(f"{folder}/model.safetensors", "pt") as file:
                saved = {name: file.get_slice(name).get_shape() for name in file.keys()}
        # Version 5 renames while saving: the file is that of version 4, which this rewrites identically.
        write(f"transformers4_{kind}", saved)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["original", checkout]:
            original(checkout)
        case ["torchvision"]:
            torchvision_backbones()
        case ["transformers"]:
            transformers_models()
        case _:
            sys.exit(__doc__)
