"""The detectors that ncnn's benchmark runs, up to their last convolutions, reshapes and softmax.

Prior boxes, the decoding of boxes and non-maximum suppression are left out. BatchNorm is folded into the convolution
before it, as in the benchmark's parameter files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .classic import conv, conv_relu, fire, half, squeezenet_features
from .mobile import Inverted, mobilenet_v1_features, mobilenet_v2_features


class Ssd(nn.Module):
    """SSD (Liu et al. 2016): boxes and class probabilities from a chain of feature maps, 21 classes.

    ``chain`` ends each link at a map that is read; ``heads`` gives each map's channels and boxes per place; ``first``
    is what the first map goes through before it is read.
    """

    def __init__(self, chain: list[nn.Module], heads: list[tuple[int, int]], kernel: int, first: nn.Module) -> None:
        super().__init__()
        self.chain = nn.ModuleList(chain)
        self.first = first
        self.boxes = nn.ModuleList(conv(inputs, 4 * count, kernel) for inputs, count in heads)
        self.classes = nn.ModuleList(conv(inputs, 21 * count, kernel) for inputs, count in heads)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        boxes, classes = [], []
        for index, (link, box, label) in enumerate(zip(self.chain, self.boxes, self.classes, strict=True)):
            x = link(x)
            read = self.first(x) if not index else x
            boxes.append(box(read).permute(0, 2, 3, 1).flatten(1))
            classes.append(label(read).permute(0, 2, 3, 1).flatten(1))
        return torch.cat(boxes, 1), torch.cat(classes, 1).unflatten(1, (-1, 21)).softmax(2).flatten(1)


def shrink(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """SSD's extra layers: a 1x1 convolution, then one of 3x3 with stride 2."""
    return nn.Sequential(conv_relu(inputs, hidden, 1), conv_relu(hidden, outputs, 3, 2))


def mobilenet_ssd() -> nn.Module:
    """SSD on MobileNet, for images (N, 3, 300, 300)."""
    features = mobilenet_v1_features(1.0, nn.ReLU)
    chain = [features[:12], features[12:], shrink(1024, 256, 512), shrink(512, 128, 256)]
    chain += [shrink(256, 128, 256), shrink(256, 64, 128)]
    return Ssd(chain, [(512, 3), (1024, 6), (512, 6), (256, 6), (256, 6), (128, 6)], 1, nn.Identity())


def squeezenet_ssd() -> nn.Module:
    """SSD on SqueezeNet 1.1, for images (N, 3, 300, 300). Its first map is normalised before it is read."""
    features = squeezenet_features()
    chain = [features[:6], features[6:], nn.Sequential(half(), fire(512, 96, 384))]
    chain += [nn.Sequential(half(), fire(768, 96, 384)), shrink(768, 128, 256), shrink(256, 64, 128)]
    return Ssd(chain, [(256, 4), (512, 6), (768, 6), (768, 6), (256, 6), (128, 4)], 3, nn.BatchNorm2d(256))


def separable_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_relu(inputs, inputs, 3, groups=inputs), conv_relu(inputs, outputs, 1))


class MobileNetV2YoloV3(nn.Module):
    """YOLOv3's heads on MobileNetV2, for images (N, 3, 352, 352): two maps of 3 boxes and 20 classes."""

    def __init__(self) -> None:
        super().__init__()
        features = mobilenet_v2_features(1.0, nn.ReLU)
        # The map of stride 16 is read inside the first block of stride 32, after its 1x1 convolution.
        block = list(features[14].get_submodule("layers").children())
        self.shallow = nn.Sequential(features[:14], *block[:2])
        self.deep = nn.Sequential(*block[2:], features[15:], separable_relu(1280, 576))
        # Caffe's way to write a nearest upsampling: zeros in between, then the largest of 2x2.
        self.up = nn.Sequential(nn.ConvTranspose2d(576, 576, 1, 2, groups=576, bias=False), nn.MaxPool2d(2, 1, 1))
        self.lateral, self.merge = separable_relu(576, 576), separable_relu(576, 576)
        self.head32, self.head16 = conv(576, 75, 1), conv(576, 75, 1)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.shallow(x)
        y = self.deep(x)
        return self.head32(y), self.head16(self.merge(self.up(y) + self.lateral(x)))


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


def conv_leaky(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, stride, groups), leaky())


class CspTiny(nn.Module):
    """YOLOv4-tiny's block: two convolutions on the second half of the channels, then everything side by side.

    Returns the block's map, of twice the channels, and the map before the last concatenation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        own = channels // 2
        self.own = own
        self.conv1 = conv_leaky(channels, channels, 3)
        self.conv2, self.conv3 = conv_leaky(own, own, 3), conv_leaky(own, own, 3)
        self.conv4 = conv_leaky(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(x)
        y = self.conv2(x[:, self.own :])
        y = self.conv4(torch.cat([self.conv3(y), y], 1))
        return torch.cat([x, y], 1), y


class YoloV4Tiny(nn.Module):
    """YOLOv4-tiny (Wang et al. 2021), for images (N, 3, 416, 416): two maps of 3 boxes and 80 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_leaky(3, 32, 3, 2), conv_leaky(32, 64, 3, 2))
        self.csp = nn.ModuleList(CspTiny(channels) for channels in (64, 128, 256))
        self.pool = nn.MaxPool2d(2)
        self.neck = nn.Sequential(conv_leaky(512, 512, 3), conv_leaky(512, 256, 1))
        self.head32 = nn.Sequential(conv_leaky(256, 512, 3), conv(512, 255, 1))
        self.up = nn.Sequential(conv_leaky(256, 128, 1), nn.Upsample(scale_factor=2.0))
        self.head16 = nn.Sequential(conv_leaky(384, 256, 3), conv(256, 255, 1))
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = y = self.stem(x)
        for block in self.csp:
            x, y = block(x)
            x = self.pool(x)
        x = self.neck(x)
        return self.head32(x), self.head16(torch.cat([self.up(x), y], 1))


def tower(channels: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Twice a depthwise 5x5 with the activation and a 1x1 convolution without."""
    layers = nn.Sequential()
    for _ in range(2):
        layers += nn.Sequential(conv(channels, channels, 5, 1, channels), activation(), conv(channels, channels, 1))
    return layers


class YoloFastest(nn.Module):
    """YOLO-Fastest 1.1, for images (N, 3, 320, 320): two maps of 3 boxes and 80 classes."""

    SHALLOW = ((0, 4, 1), (8, 4, 1), (24, 8, 2), (32, 8, 1), (32, 8, 1), (32, 8, 2), (48, 8, 1), (48, 8, 1))
    SHALLOW += ((48, 16, 1),) + ((96, 16, 1),) * 4 + ((96, 24, 2),) + ((136, 24, 1),) * 4
    DEEP = ((136, 48, 2),) + ((224, 48, 1),) * 5
    """Hidden channels, channels and stride of the inverted residuals down to stride 16, and to stride 32."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_leaky(3, 8, 3, 2), conv_leaky(8, 8, 1)]
        inputs = 8
        for hidden, outputs, stride in self.SHALLOW + self.DEEP:
            layers.append(Inverted(inputs, hidden, 3, outputs, stride, leaky))
            inputs = outputs
        split = 2 + len(self.SHALLOW)
        self.shallow, self.deep = nn.Sequential(*layers[:split]), nn.Sequential(*layers[split:])
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (9, 5, 3))
        self.neck = conv_leaky(192, 96, 1)
        self.head32 = nn.Sequential(tower(96, leaky), conv(96, 255, 1))
        self.up = nn.Upsample(scale_factor=2.0)
        self.head16 = nn.Sequential(tower(120, leaky), conv(120, 255, 1))
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.shallow(x)
        y = self.deep(x)
        y = self.neck(torch.cat([*(pool(y) for pool in self.pools), y], 1))
        return self.head32(y), self.head16(torch.cat([self.up(y), x], 1))


class ShuffleV2(nn.Module):
    """ShuffleNetV2's unit (Ma et al. 2018, figure 3): half of the channels pass by, or both halves at stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        own = outputs // 2
        self.stride = stride
        entry = inputs if stride == 2 else own
        self.filter = nn.Sequential(conv_relu(entry, own, 1), conv(own, own, 3, stride, own), conv_relu(own, own, 1))
        aside = nn.Sequential(conv(inputs, inputs, 3, 2, inputs), conv_relu(inputs, own, 1))
        self.aside = aside if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return torch.cat([self.aside(x), self.filter(x)], 1)
        n, c, h, w = x.shape
        kept, used = x.reshape(n, c // 2, 2, h, w).transpose(1, 2).reshape(n, c, h, w).chunk(2, 1)
        return torch.cat([kept, self.filter(used)], 1)


class YoloFastestV2(nn.Module):
    """YOLO-FastestV2, for images (N, 3, 352, 352): a map (N, 22, 22, 95) of boxes, objectness and classes.

    Of its two maps only that of stride 16: the benchmark asks for the first, and ncnn computes what that needs.
    """

    def __init__(self) -> None:
        super().__init__()
        stages, inputs = [], 24
        for outputs, count in ((48, 4), (96, 8), (192, 4)):
            stages += [ShuffleV2(inputs, outputs, 2), *(ShuffleV2(outputs, outputs, 1) for _ in range(count - 1))]
            inputs = outputs
        self.shallow = nn.Sequential(conv_relu(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1), *stages[:12])
        self.deep = nn.Sequential(*stages[12:], nn.Upsample(scale_factor=2.0))
        self.neck = conv_relu(288, 72, 1)
        self.labels, self.places = tower(72, nn.ReLU), tower(72, nn.ReLU)
        self.box, self.object, self.label = conv(72, 12, 1), conv(72, 3, 1), conv(72, 80, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shallow(x)
        x = self.neck(torch.cat([self.deep(x), x], 1))
        labels, places = self.labels(x), self.places(x)
        classes = self.label(labels).permute(0, 2, 3, 1).softmax(3).permute(0, 3, 1, 2)
        parts = [self.box(places).sigmoid(), self.object(labels).sigmoid(), classes]
        return torch.cat(parts, 1).permute(0, 2, 3, 1)


class BlazeBlock(nn.Module):
    """BlazeFace's single block (Bazarevsky et al. 2019): the shortcut is pooled and padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, outputs - inputs
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, 0 if stride == 2 else 1, groups=inputs)
        self.layers = nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.stride == 2:
            y = nn.functional.pad(x, (0, 2, 0, 2))
            x = nn.functional.max_pool2d(x, 2)
        if self.more:
            x = nn.functional.pad(x, (0, 0, 0, 0, 0, self.more))
        return torch.relu(self.layers(y) + x)


def blazeface() -> nn.Module:
    """BlazeFace's feature extractor, all that the benchmark has of it: images (N, 3, 128, 128) to (N, 96, 8, 8)."""
    layers: list[nn.Module] = [nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(3, 24, 5, 2), nn.ReLU()]
    inputs = 24
    for outputs in (24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88, 96, 96, 96, 96, 96):
        layers.append(BlazeBlock(inputs, outputs, 2 if outputs != inputs and outputs in (32, 48, 96) else 1))
        inputs = outputs
    return nn.Sequential(*layers).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mobilenet_ssd": (mobilenet_ssd, (3, 300, 300)),
    "squeezenet_ssd": (squeezenet_ssd, (3, 300, 300)),
    "mobilenetv2_yolov3": (MobileNetV2YoloV3, (3, 352, 352)),
    "yolov4-tiny": (YoloV4Tiny, (3, 416, 416)),
    "yolo-fastest-1.1": (YoloFastest, (3, 320, 320)),
    "yolo-fastestv2": (YoloFastestV2, (3, 352, 352)),
    "blazeface": (blazeface, (3, 128, 128)),
}
"""By name in ncnn's benchmark: what builds the network, and the shape of its input without the batch."""
