"""Networks of the later tables (NetsPresso's, trtutils', XNNPACK's) that no other has: YOLOv7-tiny, YOLOv8, YOLOX, and
what timm builds. Written from the published configurations; suppression is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from edgesdk.network.load import load_model

from .classic import conv
from .yolo import CLASSES, Chain, Detect, Pyramid, conv_silu

SIZES = (160, 320, 640, 960)


def residual(channels: int, first: int, adds: bool = True) -> nn.Module:
    """A convolution of ``first`` x ``first`` and one of 3x3, with a shortcut."""
    layers = nn.Sequential(conv_silu(channels, channels, first), conv_silu(channels, channels, 3))
    return Shortcut(layers) if adds else layers


class Shortcut(nn.Module):
    """The input plus what the layers make of it."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Neck(nn.Module):
    """A feature pyramid up and down again (PANet): three maps in, three out, each of the blocks as it is given."""

    def __init__(
        self, enter: list[nn.Module], up: list[nn.Module], down: list[nn.Module], join: list[nn.Module]
    ) -> None:
        super().__init__()
        self.enter, self.up = nn.ModuleList(enter), nn.ModuleList(up)
        self.down, self.join = nn.ModuleList(down), nn.ModuleList(join)
        self.larger = nn.Upsample(scale_factor=2.0)

    def forward(self, x8: Tensor, x16: Tensor, x32: Tensor) -> list[Tensor]:
        y32 = self.enter[0](x32)
        y16 = self.enter[1](self.up[0](torch.cat([self.larger(y32), x16], 1)))
        y8 = self.up[1](torch.cat([self.larger(y16), x8], 1))
        z16 = self.join[0](torch.cat([self.down[0](y8), y16], 1))
        return [y8, z16, self.join[1](torch.cat([self.down[1](z16), y32], 1))]


class DetectPlain(Detect):
    """YOLOv8's head: 3x3 convolutions for classes, too."""

    def __init__(self, widths: tuple[int, ...], size: int) -> None:
        super().__init__(widths, size, 16)
        label = max(widths[0], min(CLASSES, 100))
        for index, width in enumerate(widths):
            layers = (conv_silu(width, label, 3), conv_silu(label, label, 3), nn.Conv2d(label, CLASSES, 1))
            self.labels[index] = nn.Sequential(*layers)


class Yolov8(nn.Module):
    """YOLOv8 (Ultralytics, yolov8.yaml), n or s by its width."""

    def __init__(self, width: float, size: int) -> None:
        super().__init__()
        a, b, c, d, e = (int(width * channels) for channels in (64, 128, 256, 512, 1024))

        def chain(inputs: int, outputs: int, count: int, adds: bool) -> nn.Module:
            return Chain(inputs, outputs, outputs // 2, [residual(outputs // 2, 3, adds) for _ in range(count)])

        self.to8 = nn.Sequential(
            conv_silu(3, a, 3, 2),
            conv_silu(a, b, 3, 2),
            chain(b, b, 1, True),
            conv_silu(b, c, 3, 2),
            chain(c, c, 2, True),
        )
        self.to16 = nn.Sequential(conv_silu(c, d, 3, 2), chain(d, d, 2, True))
        self.to32 = nn.Sequential(conv_silu(d, e, 3, 2), chain(e, e, 1, True), Pyramid(e, False))
        self.neck = Neck(
            [nn.Identity(), nn.Identity()], [chain(e + d, d, 1, False), chain(d + c, c, 1, False)],
            [conv_silu(c, c, 3, 2), conv_silu(d, d, 3, 2)], [chain(c + d, d, 1, False), chain(d + e, e, 1, False)],
        )  # fmt: skip
        self.head = DetectPlain((c, d, e), size)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x8 = self.to8(x)
        x16 = self.to16(x8)
        return self.head(self.neck(x8, x16, self.to32(x16)))


class Split(nn.Module):
    """YOLOX's block CSP: bottlenecks beside a 1x1 convolution (Ge et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, count: int, adds: bool) -> None:
        super().__init__()
        hidden = outputs // 2
        self.main = nn.Sequential(conv_silu(inputs, hidden, 1), *(residual(hidden, 1, adds) for _ in range(count)))
        self.beside, self.out = conv_silu(inputs, hidden, 1), conv_silu(2 * hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.main(x), self.beside(x)], 1))


class Pools(nn.Module):
    """The input beside its pools of 5x5, 9x9 and 13x13."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(pool(x) for pool in self.pools)], 1)


class YoloxS(nn.Module):
    """YOLOX-s (Ge et al. 2021), its head decoupled."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.patches, self.stem = nn.PixelUnshuffle(2), conv_silu(12, 32, 3)
        self.to8 = nn.Sequential(
            conv_silu(32, 64, 3, 2), Split(64, 64, 1, True), conv_silu(64, 128, 3, 2), Split(128, 128, 3, True)
        )
        self.to16 = nn.Sequential(conv_silu(128, 256, 3, 2), Split(256, 256, 3, True))
        last = (conv_silu(512, 256, 1), Pools(), conv_silu(1024, 512, 1), Split(512, 512, 1, False))
        self.to32 = nn.Sequential(conv_silu(256, 512, 3, 2), *last)
        self.neck = Neck(
            [conv_silu(512, 256, 1), conv_silu(256, 128, 1)], [Split(512, 256, 1, False), Split(256, 128, 1, False)],
            [conv_silu(128, 128, 3, 2), conv_silu(256, 256, 3, 2)],
            [Split(256, 256, 1, False), Split(512, 512, 1, False)],
        )  # fmt: skip
        self.stems = nn.ModuleList(conv_silu(width, 128, 1) for width in (128, 256, 512))
        self.labels, self.boxes = (
            nn.ModuleList(nn.Sequential(conv_silu(128, 128, 3), conv_silu(128, 128, 3)) for _ in range(3)) for _ in "ab"
        )
        self.label, self.box, self.object = (
            nn.ModuleList(nn.Conv2d(128, count, 1) for _ in range(3)) for count in (classes, 4, 1)
        )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x8 = self.to8(self.stem(self.patches(x)))
        x16 = self.to16(x8)
        rows = []
        for index, part in enumerate(self.neck(x8, x16, self.to32(x16))):
            part = self.stems[index](part)
            label, box = self.labels[index](part), self.boxes[index](part)
            made = [self.box[index](box), self.object[index](box).sigmoid(), self.label[index](label).sigmoid()]
            rows.append(torch.cat(made, 1).flatten(2))
        return torch.cat(rows, 2)


def leaky(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, stride), nn.LeakyReLU(0.1))


class Elan(nn.Module):
    """YOLOv7-tiny's block: two 1x1 side by side, two 3x3 behind the second, all of them to 1x1."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.beside, self.enter = leaky(inputs, hidden, 1), leaky(inputs, hidden, 1)
        self.first, self.second = leaky(hidden, hidden, 3), leaky(hidden, hidden, 3)
        self.out = leaky(4 * hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.beside(x), self.enter(x)]
        for layer in (self.first, self.second):
            parts.append(layer(parts[-1]))
        return self.out(torch.cat(parts, 1))


class PoolsBeside(nn.Module):
    """YOLOv7-tiny's SPP: pools behind one 1x1 convolution, another beside it."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.beside = leaky(channels, hidden, 1)
        self.pools = nn.Sequential(leaky(channels, hidden, 1), Pools(), leaky(4 * hidden, hidden, 1))
        self.out = leaky(2 * hidden, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.pools(x), self.beside(x)], 1))


class Yolov7Tiny(nn.Module):
    """YOLOv7-tiny (Wang et al. 2022, yolov7-tiny.yaml), its three maps as convolutions leave them."""

    def __init__(self) -> None:
        super().__init__()
        self.to8 = nn.Sequential(
            leaky(3, 32, 3, 2), leaky(32, 64, 3, 2), Elan(64, 32, 64), nn.MaxPool2d(2), Elan(64, 64, 128)
        )
        self.to16 = nn.Sequential(nn.MaxPool2d(2), Elan(128, 128, 256))
        self.to32 = nn.Sequential(nn.MaxPool2d(2), Elan(256, 256, 512), PoolsBeside(512, 256))
        self.narrow = nn.ModuleList([leaky(256, 128, 1), leaky(256, 128, 1), leaky(128, 64, 1), leaky(128, 64, 1)])
        self.up16, self.up8 = Elan(256, 64, 128), Elan(128, 32, 64)
        self.down16, self.join16 = leaky(64, 128, 3, 2), Elan(256, 64, 128)
        self.down32, self.join32 = leaky(128, 256, 3, 2), Elan(512, 128, 256)
        self.larger = nn.Upsample(scale_factor=2.0)
        self.heads = nn.ModuleList(
            nn.Sequential(leaky(width, 2 * width, 3), nn.Conv2d(2 * width, 3 * (CLASSES + 5), 1))
            for width in (64, 128, 256)
        )
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        x8 = self.to8(x)
        x16 = self.to16(x8)
        x32 = self.to32(x16)
        y16 = self.up16(torch.cat([self.narrow[1](x16), self.larger(self.narrow[0](x32))], 1))
        y8 = self.up8(torch.cat([self.narrow[3](x8), self.larger(self.narrow[2](y16))], 1))
        z16 = self.join16(torch.cat([self.down16(y8), y16], 1))
        z32 = self.join32(torch.cat([self.down32(z16), x32], 1))
        return [head(part) for head, part in zip(self.heads, (y8, z16, z32), strict=True)]


DETECTORS: dict[str, Callable[[int], nn.Module]] = {
    "yolov7t": lambda size: Yolov7Tiny(),
    "yolov8n": partial(Yolov8, 0.25),
    "yolov8s": partial(Yolov8, 0.5),
    "yoloxs": lambda size: YoloxS(),
}
TIMM = {
    "EfficientFormer-l1": "efficientformer_l1", "MixNet-s": "mixnet_s", "MobileNetV3-small": "mobilenetv3_small_100",
    "MobileNetV3-large": "mobilenetv3_large_100", "ViT-tiny": "vit_tiny_patch16_224",
}  # fmt: skip
"""By name in the tables, what timm calls them."""
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    **{f"{name}-{size}": (partial(make, size), (3, size, size)) for name, make in DETECTORS.items() for size in SIZES},
    **{name: (partial(load_model, f"timm:{timm}"), (3, 224, 224)) for name, timm in TIMM.items()},
    "YOLOX-s": (partial(YoloxS, 4), (3, 640, 640)),
}
"""By name: what builds the network, and the shape of its input without the batch."""
