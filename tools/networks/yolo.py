"""Ultralytics' YOLO11 and YOLO26 detectors for 640x640 images, with BatchNorm folded as their inference does.

Written from the published configurations and figures. The boxes are decoded; suppression (YOLO11) and the choice of
the best 300 (YOLO26) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .classic import conv

CLASSES = 80
STRIDES = (8, 16, 32)


def conv_silu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, stride, groups), nn.SiLU())


class Added(nn.Module):
    """The input plus the layers' output."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def bottleneck(channels: int, hidden: int) -> nn.Module:
    """Two 3x3 convolutions with a shortcut."""
    return Added(conv_silu(channels, hidden, 3), conv_silu(hidden, channels, 3))


class Csp(nn.Module):
    """The block C3k: two bottlenecks beside a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.main = nn.Sequential(conv_silu(channels, hidden, 1), *(bottleneck(hidden, hidden) for _ in range(2)))
        self.beside = conv_silu(channels, hidden, 1)
        self.out = conv_silu(2 * hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.main(x), self.beside(x)], 1))


class Attention(nn.Module):
    """Self-attention between all places, with keys half as wide as values, and a depthwise 3x3 as position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // 64, 1)
        self.value = channels // self.heads
        self.key = self.value // 2
        self.qkv = conv(channels, channels + 2 * self.heads * self.key, 1)
        self.position = conv(channels, channels, 3, groups=channels)
        self.out = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = self.qkv(x).view(n, self.heads, 2 * self.key + self.value, h * w)
        query, key, value = parts.split([self.key, self.key, self.value], 2)
        weights = ((query.transpose(2, 3) @ key) * self.key**-0.5).softmax(3)
        y = (value @ weights.transpose(2, 3)).view(n, c, h, w)
        return self.out(y + self.position(value.reshape(n, c, h, w)))


def attend(channels: int) -> nn.Module:
    """An encoder's layer: attention, then two 1x1 convolutions, each with a shortcut."""
    feed = Added(conv_silu(channels, 2 * channels, 1), conv(2 * channels, channels, 1))
    return nn.Sequential(Added(Attention(channels)), feed)


class Chain(nn.Module):
    """The block C3k2: a 1x1 convolution to two halves, blocks behind the second, all of them side by side to 1x1."""

    def __init__(self, inputs: int, outputs: int, hidden: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.enter = conv_silu(inputs, 2 * hidden, 1)
        self.blocks = nn.ModuleList(blocks)
        self.out = conv_silu((2 + len(blocks)) * hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.out(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """The block SPPF: three pools of 5x5 in a row, side by side. YOLO26's has no first activation, but a shortcut."""

    def __init__(self, channels: int, newer: bool) -> None:
        super().__init__()
        hidden = channels // 2
        self.newer = newer
        self.enter = conv(channels, hidden, 1) if newer else conv_silu(channels, hidden, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.out = conv_silu(4 * hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        y = self.out(torch.cat(parts, 1))
        return y + x if self.newer else y


class Psa(nn.Module):
    """The block C2PSA: attention on half of the channels."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.enter, self.out = conv_silu(channels, channels, 1), conv_silu(channels, channels, 1)
        self.layers = nn.Sequential(*(attend(channels // 2) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        kept, used = self.enter(x).chunk(2, 1)
        return self.out(torch.cat([kept, self.layers(used)], 1))


class Detect(nn.Module):
    """The head: boxes and class probabilities (N, 84, 8400) from three maps.

    ``bins`` 16: each side of a box is the mean of a distribution; 1: it is regressed, and corners are returned.
    """

    def __init__(self, widths: tuple[int, ...], size: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        box, label = max(16, widths[0] // 4, 4 * bins), max(widths[0], min(CLASSES, 100))
        self.boxes, self.labels = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.boxes.append(
                nn.Sequential(conv_silu(width, box, 3), conv_silu(box, box, 3), nn.Conv2d(box, 4 * bins, 1))
            )
            layers = [conv_silu(width, width, 3, groups=width), conv_silu(width, label, 1)]
            layers += [conv_silu(label, label, 3, groups=label), conv_silu(label, label, 1)]
            self.labels.append(nn.Sequential(*layers, nn.Conv2d(label, CLASSES, 1)))
        self.mean = nn.Conv2d(bins, 1, 1, bias=False) if bins > 1 else nn.Identity()
        anchors, strides = [], []
        for stride in STRIDES:
            axis = torch.arange(size // stride) + 0.5
            y, x = torch.meshgrid(axis, axis, indexing="ij")
            anchors.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((1, axis.numel() ** 2), float(stride)))
        self.anchors: Tensor
        self.strides: Tensor
        self.register_buffer("anchors", torch.cat(anchors, 1)[None])
        self.register_buffer("strides", torch.cat(strides, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows = []
        for x, box, label in zip(maps, self.boxes, self.labels, strict=True):
            rows.append(torch.cat([box(x), label(x)], 1).flatten(2))
        sides, classes = torch.cat(rows, 2).split([4 * self.bins, CLASSES], 1)
        if self.bins > 1:
            n, _, places = sides.shape
            sides = self.mean(sides.view(n, 4, self.bins, places).transpose(1, 2).softmax(1)).view(n, 4, places)
        before, after = sides.chunk(2, 1)
        low, high = self.anchors - before, self.anchors + after
        corners = [(low + high) / 2, high - low] if self.bins > 1 else [low, high]
        return torch.cat([torch.cat(corners, 1) * self.strides, classes.sigmoid()], 1)


SCALES = {"n": (0.5, 0.25, 1024), "s": (0.5, 0.5, 1024), "m": (0.5, 1.0, 512), "l": (1.0, 1.0, 512)}
SCALES["x"] = (1.0, 1.5, 512)
"""Depth, width and the most channels before the width is applied."""


class Yolo(nn.Module):
    """YOLO11, or YOLO26 if ``newer``, of the scale n, s, m, l or x, for images (N, 3, 640, 640)."""

    def __init__(self, scale: str, newer: bool = False) -> None:
        super().__init__()
        depth, factor, most = SCALES[scale]
        count = round(2 * depth)
        large = scale in "mlx"

        def wide(channels: int) -> int:
            return math.ceil(min(channels, most) * factor / 8) * 8

        def chain(inputs: int, outputs: int, nested: bool, expansion: float = 0.5) -> nn.Module:
            hidden = int(outputs * expansion)
            nested = nested or large
            blocks = [Csp(hidden) if nested else bottleneck(hidden, hidden // 2) for _ in range(count)]
            return Chain(inputs, outputs, hidden, blocks)

        a, b, c, d, e = (wide(channels) for channels in (64, 128, 256, 512, 1024))
        layers = [conv_silu(3, a, 3, 2), conv_silu(a, b, 3, 2), chain(b, c, False, 0.25), conv_silu(c, c, 3, 2)]
        self.to8 = nn.Sequential(*layers, chain(c, d, False, 0.25))
        self.to16 = nn.Sequential(conv_silu(d, d, 3, 2), chain(d, d, True))
        self.to32 = nn.Sequential(conv_silu(d, e, 3, 2), chain(e, e, True), Pyramid(e, newer), Psa(e, count))
        self.up = nn.Upsample(scale_factor=2.0)
        self.up16, self.up8 = chain(e + d, d, newer), chain(d + d, c, newer)
        self.down16, self.join16 = conv_silu(c, c, 3, 2), chain(c + d, d, newer)
        self.down32 = conv_silu(d, d, 3, 2)
        last = nn.Sequential(bottleneck(e // 2, e // 4), attend(e // 2))
        self.join32 = Chain(d + e, e, e // 2, [last]) if newer else chain(d + e, e, True)
        self.head = Detect((c, d, e), 640, 1 if newer else 16)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x8 = self.to8(x)
        x16 = self.to16(x8)
        x32 = self.to32(x16)
        y16 = self.up16(torch.cat([self.up(x32), x16], 1))
        y8 = self.up8(torch.cat([self.up(y16), x8], 1))
        y16 = self.join16(torch.cat([self.down16(y8), y16], 1))
        y32 = self.join32(torch.cat([self.down32(y16), x32], 1))
        return self.head([y8, y16, y32])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    **{f"YOLO11{scale}": (partial(Yolo, scale), (3, 640, 640)) for scale in "nsmlx"},
    **{f"YOLO26{scale}": (partial(Yolo, scale, newer=True), (3, 640, 640)) for scale in "nl"},
}
"""By name in Ultralytics' tables: what builds the network, and the shape of its input without the batch."""
