"""Networks for phones, as ncnn's benchmark and MLPerf's inference results ran them.

BatchNorm is folded into the convolution before it. TensorFlow pads an even size at one side where its stride is 2;
here both sides are padded, which has the same shapes and no pad of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .classic import conv, conv_relu, half


def divisible(channels: float) -> int:
    """The multiple of 8 that is nearest to ``channels``, but not more than a tenth below it, as TF-Slim rounds."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def classifier(inputs: int, classes: int) -> nn.Sequential:
    """Global average pool, 1x1 convolution, softmax."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, classes, 1), nn.Flatten(), nn.Softmax(1))


MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + ((512, 1),) * 5 + ((1024, 2), (1024, 1))
"""Channels and stride of each pair of a depthwise and a 1x1 convolution (Howard et al. 2017, table 1)."""


def mobilenet_v1_features(width: float, activation: type[nn.Module]) -> nn.Sequential:
    inputs = int(32 * width)
    layers = nn.Sequential(nn.Sequential(conv(3, inputs, 3, 2), activation()))
    for channels, stride in MOBILENET_V1:
        outputs = int(channels * width)
        pair = (conv(inputs, inputs, 3, stride, inputs), activation(), conv(inputs, outputs, 1), activation())
        layers.append(nn.Sequential(*pair))
        inputs = outputs
    return layers


class MobileNetV1(nn.Sequential):
    """MobileNet (Howard et al. 2017): images (N, 3, size, size) to probabilities."""

    def __init__(self, width: float = 1.0, classes: int = 1001, activation: type[nn.Module] = nn.ReLU6) -> None:
        super().__init__(mobilenet_v1_features(width, activation), classifier(int(1024 * width), classes))
        self.eval()


class Inverted(nn.Module):
    """1x1 to ``hidden`` channels, depthwise, 1x1 to ``outputs``; with the input added where the shape is kept.

    ``hidden`` 0 leaves out the first convolution.
    """

    def __init__(
        self, inputs: int, hidden: int, kernel: int, outputs: int, stride: int, act: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        layers = [conv(inputs, hidden, 1), act()] if hidden else []
        hidden = hidden or inputs
        layers += [conv(hidden, hidden, kernel, stride, hidden), act(), conv(hidden, outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


MOBILENET_V2 = ((6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage but the first (Sandler et al. 2018, table 2)."""


def mobilenet_v2_features(width: float, activation: type[nn.Module], expand_first: bool = False) -> nn.Sequential:
    """Up to the last convolution. ``expand_first``: a 1x1 convolution also in the first block, as in Caffe's."""
    stem, inputs = divisible(32 * width), divisible(16 * width)
    layers = nn.Sequential(nn.Sequential(conv(3, stem, 3, 2), activation()))
    layers.append(Inverted(stem, stem if expand_first else 0, 3, inputs, 1, activation))
    for expansion, channels, count, first in MOBILENET_V2:
        outputs = divisible(channels * width)
        for index in range(count):
            layers.append(Inverted(inputs, expansion * inputs, 3, outputs, 1 if index else first, activation))
            inputs = outputs
    layers.append(nn.Sequential(conv(inputs, divisible(1280 * max(1.0, width)), 1), activation()))
    return layers


class MobileNetV2(nn.Sequential):
    """MobileNetV2 (Sandler et al. 2018): images (N, 3, size, size) to probabilities."""

    def __init__(
        self,
        width: float = 1.0,
        classes: int = 1001,
        activation: type[nn.Module] = nn.ReLU6,
        expand_first: bool = False,
    ) -> None:
        features = mobilenet_v2_features(width, activation, expand_first)
        super().__init__(features, classifier(divisible(1280 * max(1.0, width)), classes))
        self.eval()


def searched(blocks: tuple[tuple[int, int, int, int], ...]) -> nn.Module:
    """A searched chain of inverted residuals, each hidden channels, kernel, channels and stride."""
    layers: list[nn.Module] = [conv_relu(3, 32, 3, 2)]
    inputs = 32
    for hidden, kernel, outputs, stride in blocks:
        layers.append(Inverted(inputs, hidden, kernel, outputs, stride, nn.ReLU))
        inputs = outputs
    head = [conv_relu(320, 1280, 1), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(1280, 1000), nn.Softmax(1)]
    return nn.Sequential(*layers, *head).eval()


def mnasnet() -> nn.Module:
    """MnasNet-B1 (Tan et al. 2019)."""
    blocks = ((0, 3, 16, 1), (48, 3, 24, 2)) + ((72, 3, 24, 1),) * 2 + ((72, 5, 40, 2),) + ((120, 5, 40, 1),) * 2
    blocks += ((240, 5, 80, 2),) + ((480, 5, 80, 1),) * 2 + ((480, 3, 96, 1), (576, 3, 96, 1))
    blocks += ((576, 5, 192, 2),) + ((1152, 5, 192, 1),) * 3 + ((1152, 3, 320, 1),)
    return searched(blocks)


def proxylessnasnet() -> nn.Module:
    """ProxylessNAS (Cai et al. 2019), the one that ncnn's benchmark has."""
    blocks = ((0, 3, 32, 1), (48, 5, 32, 2), (96, 3, 32, 1), (96, 7, 40, 2), (120, 3, 40, 1))
    blocks += ((120, 5, 40, 1),) * 2 + ((240, 7, 80, 2),) + ((240, 5, 80, 1),) * 3 + ((480, 5, 96, 1),)
    blocks += ((288, 5, 96, 1),) * 3 + ((576, 7, 192, 2), (1152, 7, 192, 1)) + ((576, 7, 192, 1),) * 2
    return searched((*blocks, (1152, 7, 320, 1)))


class Shuffle(nn.Module):
    """ShuffleNet's unit (Zhang et al. 2018, figure 2) in 3 groups; at stride 2 the input is pooled and kept beside."""

    def __init__(self, inputs: int, outputs: int, stride: int, first: bool = False) -> None:
        super().__init__()
        own = outputs - inputs if stride == 2 else outputs
        hidden = own // 4
        self.first, self.stride = first, stride
        self.narrow = conv_relu(inputs, hidden, 1, groups=1 if first else 3)
        self.filter = nn.Sequential(conv(hidden, hidden, 3, stride, hidden), conv(hidden, own, 1, groups=3))
        self.pool = nn.AvgPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(x)
        if not self.first:
            n, c, h, w = y.shape
            y = y.reshape(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.filter(y)
        return torch.relu(torch.cat([self.pool(x), y], 1) if self.stride == 2 else x + y)


def shufflenet() -> nn.Module:
    """ShuffleNet 1x with 3 groups (Zhang et al. 2018), as Caffe's."""
    layers: list[nn.Module] = [conv_relu(3, 24, 3, 2), half()]
    inputs = 24
    for outputs, count in ((240, 4), (480, 8), (960, 4)):
        layers += [Shuffle(inputs, outputs, 2, first=inputs == 24)]
        layers += [Shuffle(outputs, outputs, 1) for _ in range(count - 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(960, 1000, 1)).eval()


class Excite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): every channel times a factor from all channels' means."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(channels, hidden, 1), nn.SiLU(), conv(hidden, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x.mean((2, 3), keepdim=True))


class EfficientBlock(nn.Module):
    """A block of EfficientNetV2; ``fused`` joins the first 1x1 and the depthwise convolution in one of 3x3."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, fused: bool) -> None:
        super().__init__()
        hidden = inputs * expansion
        if expansion == 1:
            layers = [conv(inputs, outputs, 3, stride), nn.SiLU()]
        elif fused:
            layers = [conv(inputs, hidden, 3, stride), nn.SiLU(), conv(hidden, outputs, 1)]
        else:
            layers = [conv(inputs, hidden, 1), nn.SiLU(), conv(hidden, hidden, 3, stride, hidden), nn.SiLU()]
            layers += [Excite(hidden, inputs // 4), conv(hidden, outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs
        if self.adds:
            # The converter moved the last BatchNorm's shift behind the addition, so it is an operator of its own.
            self.layers[-1] = nn.Conv2d(hidden, outputs, 1, bias=False)
            self.shift = nn.Parameter(torch.zeros(1, outputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) + self.shift if self.adds else self.layers(x)


def efficientnetv2_b0() -> nn.Module:
    """Keras' EfficientNetV2-B0 (Tan and Le 2021): images (N, 3, 224, 224) to 1,000 logits."""
    layers: list[nn.Module] = [conv(3, 32, 3, 2), nn.SiLU()]
    stages = ((1, 16, 1, 1), (4, 32, 2, 2), (4, 48, 2, 2), (4, 96, 3, 2), (6, 112, 5, 1), (6, 192, 8, 2))
    inputs = 32
    for expansion, outputs, count, first in stages:
        for index in range(count):
            layers.append(EfficientBlock(inputs, outputs, 1 if index else first, expansion, fused=outputs < 96))
            inputs = outputs
    head = [conv(192, 1280, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, *head).eval()


class Encoder(nn.Module):
    """A transformer encoder's layer with the norms first and a hidden layer four times as wide."""

    def __init__(self, width: int, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        heads = (
            linear(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        y = nn.functional.scaled_dot_product_attention(*heads)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT-B/32 (Dosovitskiy et al. 2021): images (N, 3, 384, 384) to 1,000 probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 32, 32)
        self.token = nn.Parameter(torch.zeros(1, 1, 768))
        self.position = nn.Parameter(torch.zeros(1, 145, 768))
        self.layers = nn.Sequential(*(Encoder(768) for _ in range(12)))
        self.norm = nn.LayerNorm(768, 1e-6)
        self.fc = nn.Linear(768, 1000)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.fc(self.norm(self.layers(x))[:, 0]).softmax(1)


MLPERF_V1 = {"0.25": (128, 160, 192, 224), "0.5": (128, 160, 192, 224), "0.75": (128, 192), "1.0": (160, 192, 224)}
MLPERF_V2 = {
    "0.35": (96, 128, 160, 192),
    "0.5": (96, 192, 224),
    "0.75": (128, 160, 192, 224),
    "1.0": (96, 160, 192, 224),
    "1.3": (224,),
    "1.4": (224,),
}

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mobilenet": (partial(MobileNetV1, classes=1000, activation=nn.ReLU), (3, 224, 224)),
    "mobilenet_v2": (partial(MobileNetV2, classes=1000, activation=nn.ReLU, expand_first=True), (3, 224, 224)),
    "mnasnet": (mnasnet, (3, 224, 224)),
    "proxylessnasnet": (proxylessnasnet, (3, 224, 224)),
    "shufflenet": (shufflenet, (3, 224, 224)),
    "efficientnetv2_b0": (efficientnetv2_b0, (3, 224, 224)),
    "vision_transformer": (VisionTransformer, (3, 384, 384)),
    **{
        f"mobilenet-{version}-{width}-{size}": (partial(network, float(width)), (3, size, size))
        for version, network, table in (("v1", MobileNetV1, MLPERF_V1), ("v2", MobileNetV2, MLPERF_V2))
        for width, sizes in table.items()
        for size in sizes
    },
}
"""By name in ncnn's benchmark and in MLPerf's results: what builds the network, and its input without the batch."""
