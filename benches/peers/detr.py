"""DETR-R50 in plain PyTorch with random weights: the network that every script in this folder times.

The sizes are those of the DETR paper. Images of a batch have one size, so there are no padding masks and the sine
encoding is a constant; there is no dropout. Both spare the peers work that would not change the comparison.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

WIDTH = 256
HEADS = 8
HIDDEN = 2048
LAYERS = 6
QUERIES = 100
CLASSES = 91 + 1  # COCO's category numbers, and "no object"
STRIDE = 32


class Attention(nn.Module):
    """Multi-head attention with one linear layer per projection, which `nn.MultiheadAttention` packs into one tensor:
    fake quantization replaces linear layers, and converters know them."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = split_heads(self.query(query)), split_heads(self.key(key)), split_heads(self.value(value))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


def split_heads(x: Tensor) -> Tensor:
    """From [batch, tokens, width] to [batch, heads, tokens, width of a head]."""
    return x.reshape(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Linear(WIDTH, HIDDEN)
        self.narrow = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(F.relu(self.widen(x)))


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.feed_forward = FeedForward()
        self.feed_forward_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        x = self.attention_norm(x + self.attention(placed, placed, x))
        return self.feed_forward_norm(x + self.feed_forward(x))


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attention = Attention()
        self.self_norm = nn.LayerNorm(WIDTH)
        self.cross_attention = Attention()
        self.cross_norm = nn.LayerNorm(WIDTH)
        self.feed_forward = FeedForward()
        self.feed_forward_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        placed = x + queries
        x = self.self_norm(x + self.self_attention(placed, placed, x))
        x = self.cross_norm(x + self.cross_attention(x + queries, memory + position, memory))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Backbone(nn.Module):
    """torchvision's ResNet-50 without its pooling and classifier.

    Batch norm is the ordinary module held in evaluation mode: the same function as a frozen batch norm, one kernel in
    eager PyTorch, and known to every converter.
    """

    def __init__(self) -> None:
        super().__init__()
        net = resnet50(weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, images: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(images)))))


class Detr(nn.Module):
    """The detector for images of one height and width; gives logits and boxes."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.project = nn.Conv2d(2048, WIDTH, 1)
        self.encoder = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.decoder = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.decoder_norm = nn.LayerNorm(WIDTH)
        self.queries = nn.Parameter(torch.randn(1, QUERIES, WIDTH))
        self.classes = nn.Linear(WIDTH, CLASSES)
        self.boxes = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4)
        )
        position = sine_encoding(math.ceil(height / STRIDE), math.ceil(width / STRIDE))
        self.register_buffer("position", position, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.project(self.backbone(images)).flatten(2).transpose(1, 2)
        for layer in self.encoder:
            memory = layer(memory, self.position)
        queries = self.queries.expand(images.shape[0], -1, -1)
        x = torch.zeros_like(queries)
        for layer in self.decoder:
            x = layer(x, queries, memory, self.position)
        x = self.decoder_norm(x)
        return self.classes(x), self.boxes(x).sigmoid()

    def train(self, mode: bool = True) -> "Detr":
        """As for any module, but batch norm keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def freeze(self) -> None:
        """What DETR does not train: batch norm, the stem and the first stage."""
        frozen = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        for module in [*frozen, self.backbone.stem, self.backbone.layer1]:
            module.requires_grad_(False)


def sine_encoding(rows: int, columns: int) -> Tensor:
    """DETR's encoding of positions, [1, rows * columns, WIDTH]: half of the channels for the row, half for the column."""
    half = WIDTH // 2
    wavelength = 10000 ** (2 * (torch.arange(half) // 2) / half)

    def axis(count: int) -> Tensor:
        angle = torch.arange(1, count + 1)[:, None] / count * 2 * math.pi / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    row = axis(rows)[:, None, :].expand(rows, columns, half)
    column = axis(columns)[None, :, :].expand(rows, columns, half)
    return torch.cat((row, column), dim=2).reshape(1, rows * columns, WIDTH)


def build(height: int, width: int, seed: int = 0) -> Detr:
    """The network in evaluation mode, with the same random weights whoever asks."""
    torch.manual_seed(seed)
    return Detr(height, width).eval()


def random_images(batch: int, height: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
