"""The same DETR as Hugging Face's `DetrForObjectDetection`: configuration and names, from the original's.

Two name schemes exist for the backbone. Published checkpoints (`facebook/detr-resnet-50`) use timm's names, which equal
torchvision's; a model made with `use_timm_backbone=False` uses the names of transformers' own ResNet.
"""

import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

RENAMED = (
    ("transformer.decoder.norm.", "model.decoder.layernorm."),
    ("transformer.", "model."),
    ("input_proj.", "model.input_projection."),
    ("query_embed.", "model.query_position_embeddings."),
    ("class_embed.", "class_labels_classifier."),
    ("bbox_embed.", "bbox_predictor."),
    (".multihead_attn.", ".encoder_attn."),
    (".linear1.", ".fc1."),
    (".linear2.", ".fc2."),
    (".norm1.", ".self_attn_layer_norm."),
)
"""Parts of original names and what Hugging Face calls them; `norm2` and `norm3` depend on the layer."""


def _transformer_name(name):
    for old, new in RENAMED:
        name = name.replace(old, new)
    last_norm = ".norm2." if ".encoder.layers." in name else ".norm3."
    return name.replace(last_norm, ".final_layer_norm.").replace(".norm2.", ".encoder_attn_layer_norm.")


def _native_resnet_name(name):
    """torchvision's `layer1.0.conv2.weight` as transformers' `encoder.stages.0.layers.0.layer.1.convolution.weight`."""
    parts = name.split(".")
    if not parts[0].startswith("layer"):
        kind = {"conv1": "convolution", "bn1": "normalization"}[parts[0]]
        return f"embedder.embedder.{kind}.{parts[1]}"
    block = f"encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        kind = {"0": "convolution", "1": "normalization"}[parts[3]]
        return f"{block}.shortcut.{kind}.{parts[4]}"
    kind = "convolution" if parts[2].startswith("conv") else "normalization"
    return f"{block}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[3]}"


def rename(state, timm):
    """A state dict with original names as one with Hugging Face's; packed q, k, v projections are split."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("backbone.0.body."):
            inner = name.removeprefix("backbone.0.body.")
            renamed["model.backbone.conv_encoder.model." + (inner if timm else _native_resnet_name(inner))] = tensor
        elif ".in_proj_" in name:
            stem, kind = _transformer_name(name).split(".in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3)):
                renamed[f"{stem}.{letter}_proj.{kind}"] = part.clone()
        else:
            renamed[_transformer_name(name)] = tensor
    return renamed


def build(config, state, class_names, timm):
    """`DetrForObjectDetection` of our configuration with those (original) weights, in evaluation mode."""
    model = DetrForObjectDetection(_config(config, class_names, timm))
    model.load_state_dict(rename(state, timm))
    return model.eval()


def _config(config, class_names, timm):
    resnet = config["backbone"]["resnet"]
    shared = {
        "d_model": config["d_model"],
        "num_queries": config["queries"],
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
        "use_pretrained_backbone": False,
    }
    for side in ("encoder", "decoder"):
        shared[f"{side}_layers"] = config[f"{side}_layers"]
        shared[f"{side}_attention_heads"] = config["heads"]
        shared[f"{side}_ffn_dim"] = config["ffn"]
    if not timm:
        assert not resnet["dilated_c5"], "transformers' own ResNet cannot dilate"
        body = ResNetConfig(
            embedding_size=resnet["stem"],
            hidden_sizes=resnet["widths"],
            depths=resnet["depths"],
            layer_type=resnet["block"],
            out_features=["stage4"],
        )
        return DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=body, **shared)
    assert resnet["stem"] == 64, "timm's stem has 64 channels"
    expansion = {"basic": 1, "bottleneck": 4}[resnet["block"]]
    body = {
        "in_chans": 3,
        "out_indices": [1, 2, 3, 4],
        "layers": resnet["depths"],
        "channels": [width // expansion for width in resnet["widths"]],
    }
    name = {"basic": "resnet18", "bottleneck": "resnet50"}[resnet["block"]]
    return DetrConfig(backbone=name, backbone_kwargs=body, dilation=resnet["dilated_c5"], **shared)


@torch.no_grad()
def run(model, pixel_values, pixel_mask):
    """The results that a golden holds, computed by Hugging Face's code.

    Its own `intermediate_hidden_states` are no use: with `auxiliary_loss` on, transformers 4.57 feeds each layer the
    *normed* output of the one before, which the original does not and which changes the final answer too.
    """
    features, _ = model.model.backbone(pixel_values, pixel_mask)
    out = model(pixel_values, pixel_mask, output_hidden_states=True)
    norm = model.model.decoder.layernorm
    hidden = [norm(raw) for raw in out.decoder_hidden_states[1:-1]] + [out.last_hidden_state]
    return {
        "feature_map": features[-1][0],
        "encoder_memory": out.encoder_last_hidden_state,
        "decoder_hidden": torch.stack(hidden),
        "logits": out.logits,
        "pred_boxes": out.pred_boxes,
    }
