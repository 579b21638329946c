"""DETR in plain PyTorch, as small as it can be, with the parameter names of the original checkpoints.

Our reference: `models.py` asserts that it agrees with Hugging Face's DETR on the same weights. It reads the same
configuration (a dict with the fields of Rust's `ModelConfig`) and returns every intermediate result that a golden holds.

One choice of the original is easy to get wrong and therefore spelled out here: with a dilated last stage (DC5) the first
block of `layer4` keeps stride 1 *and dilation 1*; only the blocks behind it dilate by two.
"""

import math

import torch
import torch.nn.functional as F
import torchvision
from torch import nn


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with everything fixed; all four tensors are buffers, epsilon is 1e-5."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def conv(inputs, outputs, kernel, stride=1, dilation=1):
    """A convolution without bias, padded so that stride 1 keeps the size."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)


class Basic(nn.Module):
    """Two 3x3 convolutions (ResNet-18, -34). `dilation` must be 1, as in torchvision."""

    def __init__(self, inputs, outputs, stride, dilation):
        super().__init__()
        assert dilation == 1
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), FrozenBatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), FrozenBatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a fourfold expansion (ResNet-50, -101); version 1.5: the stride sits on the 3x3."""

    def __init__(self, inputs, outputs, stride, dilation):
        super().__init__()
        planes = outputs // 4
        self.conv1, self.bn1 = conv(inputs, planes, 1), FrozenBatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride, dilation), FrozenBatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, outputs, 1), FrozenBatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + (x if self.downsample is None else self.downsample(x)))


def shortcut(inputs, outputs, stride):
    """The projection beside a block that changes shape, or None."""
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), FrozenBatchNorm2d(outputs))


class ResNet(nn.Module):
    """torchvision's ResNet up to `layer4`, any width and depth."""

    def __init__(self, block, depths, stem, widths, dilated_c5=False):
        super().__init__()
        block = {"basic": Basic, "bottleneck": Bottleneck}[block]
        self.conv1, self.bn1 = conv(3, stem, 7, 2), FrozenBatchNorm2d(stem)
        inputs = stem
        for stage, (depth, width) in enumerate(zip(depths, widths)):
            dilate = dilated_c5 and stage == 3
            stride = 1 if stage == 0 or dilate else 2
            blocks = [block(inputs, width, stride, 1)]
            blocks += [block(width, width, 1, 2 if dilate else 1) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = width
        self.channels = inputs

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 with frozen norms, cut behind `features.17` (stride 32) or `features.13` (stride 16)."""

    def __init__(self, stride):
        super().__init__()
        last, self.channels = {32: (17, 320), 16: (13, 96)}[stride]
        net = torchvision.models.MobileNetV2(norm_layer=FrozenBatchNorm2d)
        self.features = net.features[: last + 1]

    def forward(self, x):
        return self.features(x)


def sine_positions(valid, channels):
    """Sine position encodings `[B, channels, h, w]` of a mask `[B, h, w]` of the valid cells: y channels, then x."""
    count = channels // 2
    period = 10000 ** (2 * (torch.arange(count, device=valid.device) // 2) / count)
    halves = []
    for axis in (1, 2):
        place = valid.cumsum(axis, dtype=torch.float32)
        extent = place.select(axis, -1).unsqueeze(axis)
        angle = (place / (extent + 1e-6) * (2 * math.pi))[..., None] / period
        halves.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(3))
    return torch.cat(halves, dim=3).permute(0, 3, 1, 2)


class Attention(nn.MultiheadAttention):
    """PyTorch's attention, batch first, that also returns the probabilities of each head."""

    def __init__(self, width, heads, dropout):
        super().__init__(width, heads, dropout=dropout, batch_first=True)

    def forward(self, query, key, value, padding=None, added=None):
        """`padding [B, L]`: true where keys are ignored; `added [B, heads, N, L]`: what is added to the logits."""
        added = None if added is None else added.flatten(0, 1)
        return super().forward(query, key, value, padding, attn_mask=added, average_attn_weights=False)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by its norm."""

    def __init__(self, width, heads, ffn, dropout):
        super().__init__()
        self.self_attn = Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, positions, padding):
        query = x + positions
        update, probabilities = self.self_attn(query, query, x, padding)
        x = self.norm1(x + self.dropout(update))
        update = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return self.norm2(x + self.dropout(update)), probabilities


class DecoderLayer(nn.Module):
    """Self-attention among the queries, attention to the memory, feed-forward, each followed by its norm."""

    def __init__(self, width, heads, ffn, dropout):
        super().__init__()
        self.self_attn = Attention(width, heads, dropout)
        self.multihead_attn = Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, query_positions, memory, positions, padding):
        query = x + query_positions
        update, _ = self.self_attn(query, query, x)
        x = self.norm1(x + self.dropout(update))
        update, probabilities = self.multihead_attn(x + query_positions, memory + positions, memory, padding)
        x = self.norm2(x + self.dropout(update))
        update = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return self.norm3(x + self.dropout(update)), probabilities


class Encoder(nn.Module):
    """The encoder layers; no norm behind them."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Decoder(nn.Module):
    """The decoder layers and the one norm that every layer's output goes through."""

    def __init__(self, layers, width):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)


class Transformer(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config, dropout):
        super().__init__()
        sizes = config["d_model"], config["heads"], config["ffn"], dropout
        self.encoder = Encoder([EncoderLayer(*sizes) for _ in range(config["encoder_layers"])])
        self.decoder = Decoder([DecoderLayer(*sizes) for _ in range(config["decoder_layers"])], config["d_model"])

    def forward(self, tokens, positions, padding, query_positions):
        attention = []
        for layer in self.encoder.layers:
            tokens, probabilities = layer(tokens, positions, padding)
            attention.append(probabilities)
        x, hidden = torch.zeros_like(query_positions), []
        for layer in self.decoder.layers:
            x, probabilities = layer(x, query_positions, tokens, positions, padding)
            hidden.append(self.decoder.norm(x))
            attention.append(probabilities)
        return tokens, torch.stack(hidden), attention


class BoxHead(nn.Module):
    """Three linear layers with ReLU between; the sigmoid is applied by the model."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def forward(self, x):
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class Detr(nn.Module):
    """The whole detector; `config` has the fields of Rust's `ModelConfig`."""

    def __init__(self, config, dropout=0.0):
        super().__init__()
        ((kind, arguments),) = config["backbone"].items()
        body = {"resnet": ResNet, "mobilenet_v2": MobileNetV2}[kind](**arguments)
        self.backbone = nn.Sequential(nn.ModuleDict({"body": body}))
        self.input_proj = nn.Conv2d(body.channels, config["d_model"], 1)
        self.transformer = Transformer(config, dropout)
        self.query_embed = nn.Embedding(config["queries"], config["d_model"])
        self.class_embed = nn.Linear(config["d_model"], config["classes"] + 1)
        self.bbox_embed = BoxHead(config["d_model"])

    def forward(self, pixel_values, pixel_mask):
        """`pixel_values [B, 3, H, W]`, `pixel_mask [B, H, W]` with 1 on the image and 0 on padding."""
        return self.detect(self.backbone[0]["body"](pixel_values), pixel_mask)

    def tokens(self, feature_map, pixel_mask):
        """What the transformer sees: valid cells, tokens, their positions and the queries'."""
        valid = F.interpolate(pixel_mask[None].float(), size=feature_map.shape[-2:])[0].bool()
        tokens = self.input_proj(feature_map).flatten(2).transpose(1, 2)
        positions = sine_positions(valid, tokens.shape[-1]).flatten(2).transpose(1, 2).to(tokens.dtype)
        return valid, tokens, positions, self.query_embed.weight.expand(len(tokens), -1, -1)

    def detect(self, feature_map, pixel_mask):
        """All that follows the backbone."""
        valid, tokens, positions, queries = self.tokens(feature_map, pixel_mask)
        memory, hidden, attention = self.transformer(tokens, positions, ~valid.flatten(1), queries)
        logits, boxes = self.class_embed(hidden), self.bbox_embed(hidden).sigmoid()
        return {
            "feature_map": feature_map,
            "valid": valid,
            "encoder_memory": memory,
            "decoder_hidden": hidden,
            "all_logits": logits,
            "all_boxes": boxes,
            "logits": logits[-1],
            "pred_boxes": boxes[-1],
            "attention": attention,
        }


RESNETS = {
    "resnet18": ("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
    "resnet34": ("basic", [3, 4, 6, 3], [64, 128, 256, 512]),
    "resnet50": ("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    "resnet101": ("bottleneck", [3, 4, 23, 3], [256, 512, 1024, 2048]),
}


def backbone_config(name, dilated_c5=False, stride=32):
    """The configuration of a published backbone."""
    if name == "mobilenet_v2":
        return {"mobilenet_v2": {"stride": stride}}
    block, depths, widths = RESNETS[name]
    return {"resnet": {"block": block, "depths": depths, "stem": 64, "widths": widths, "dilated_c5": dilated_c5}}


def detr_config(backbone, **changes):
    """DETR as published on a backbone, with any field changed."""
    published = {"d_model": 256, "heads": 8, "encoder_layers": 6, "decoder_layers": 6, "ffn": 2048, "queries": 100, "classes": 91}
    return {"backbone": backbone, **published, **changes}
