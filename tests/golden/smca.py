"""SMCA-DETR (single scale, `dynamic_scale=type3`), written from its formulas on top of our DETR.

Cross-attention gets a Gaussian prior around a point that each query predicts. In every decoder layer, before its
self-attention, with `out = norm4(x + query_positions)`:

    offset = point2(out)            heads x (dx, dy), in cells of the feature map
    scale  = point3(out) ^ 2        heads x (sx, sy)
    layer 0 only:  reference logits r = point1(out), a three-layer MLP to (x, y)
    centre = sigmoid(r) * (width, height) of the image without padding / stride + offset
    prior  = -sum over x, y of (centre - cell)^2 * scale / smooth        cell = whole numbers, no half added

The prior is added to the attention logits of its head, behind the scaling by 1/sqrt(head width) and before the softmax. The
centre's first part is that of layer 0 in all layers. Boxes: r is added to the (cx, cy) logits of *every* layer's box head.
"""

import torch
import torch.nn.functional as F
from torch import nn

from detr import Detr, DecoderLayer, Transformer


class Mlp(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, width, outputs):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, outputs)])

    def forward(self, x):
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class SmcaDecoderLayer(DecoderLayer):
    """DETR's decoder layer with a Gaussian prior in its cross-attention."""

    def __init__(self, width, heads, ffn, first, smooth):
        super().__init__(width, heads, ffn, 0.0)
        self.norm4 = nn.LayerNorm(width)
        if first:
            self.point1 = Mlp(width, 2)
        self.point2, self.point3 = nn.Linear(width, 2 * heads), nn.Linear(width, 2 * heads)
        self.heads, self.smooth = heads, smooth

    def prior(self, out, reference, cells):
        """`[B, heads, N, L]` from `out [B, N, d]`, `reference [B, N, 2]` in cells and `cells [L, 2]` (x, y)."""
        per_head = (*out.shape[:2], self.heads, 2)
        centre = reference[:, :, None] + self.point2(out).view(per_head)
        scale = self.point3(out).view(per_head) ** 2
        distance = ((centre[:, :, :, None] - cells) ** 2 * scale[:, :, :, None]).sum(-1)
        return -distance.transpose(1, 2) / self.smooth

    def forward(self, x, query_positions, memory, positions, padding, reference, cells):
        prior = self.prior(self.norm4(x + query_positions), reference, cells)
        query = x + query_positions
        x = self.norm1(x + self.self_attn(query, query, x)[0])
        prior = prior.masked_fill(padding[:, None, None], float("-inf"))
        update, _ = self.multihead_attn(x + query_positions, memory + positions, memory, added=prior)
        x = self.norm2(x + update)
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class SmcaTransformer(Transformer):
    """DETR's encoder and SMCA's decoder."""

    def __init__(self, config, smooth):
        super().__init__(config, 0.0)
        sizes = config["d_model"], config["heads"], config["ffn"]
        self.decoder.layers = nn.ModuleList(
            [SmcaDecoderLayer(*sizes, index == 0, smooth) for index in range(config["decoder_layers"])]
        )

    def forward(self, tokens, positions, padding, query_positions, extent, cells):
        """`extent [B, 2]`: width and height of each image without padding, in cells."""
        for layer in self.encoder.layers:
            tokens, _ = layer(tokens, positions, padding)
        x, hidden = torch.zeros_like(query_positions), []
        first = self.decoder.layers[0]
        reference_logits = first.point1(first.norm4(x + query_positions))
        reference = reference_logits.sigmoid() * extent[:, None]
        for layer in self.decoder.layers:
            x = layer(x, query_positions, tokens, positions, padding, reference, cells)
            hidden.append(self.decoder.norm(x))
        return tokens, torch.stack(hidden), reference_logits


class Smca(Detr):
    """SMCA-DETR; `config` as DETR's."""

    def __init__(self, config, smooth=8.0, stride=32):
        super().__init__(config)
        self.transformer = SmcaTransformer(config, smooth)
        self.stride = stride

    def detect(self, feature_map, pixel_mask):
        valid, tokens, positions, queries = self.tokens(feature_map, pixel_mask)
        height, width = feature_map.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cells = torch.stack((x, y), dim=-1).flatten(0, 1).to(feature_map.dtype)
        # An image fills the upper left corner, so its first row and column tell its size.
        extent = torch.stack((pixel_mask[:, 0].sum(1), pixel_mask[:, :, 0].sum(1)), dim=1) / self.stride
        extent = extent.to(feature_map.dtype)
        memory, hidden, reference = self.transformer(tokens, positions, ~valid.flatten(1), queries, extent, cells)
        boxes = self.bbox_embed(hidden)
        boxes = torch.cat((boxes[..., :2] + reference, boxes[..., 2:]), dim=-1).sigmoid()
        logits = self.class_embed(hidden)
        return {
            "feature_map": feature_map,
            "encoder_memory": memory,
            "decoder_hidden": hidden,
            "reference": reference.sigmoid(),
            "all_logits": logits,
            "all_boxes": boxes,
            "logits": logits[-1],
            "pred_boxes": boxes[-1],
        }
