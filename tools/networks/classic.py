"""The networks of 2012 to 2016 that ncnn's benchmark runs, as its parameter files describe them.

As in those files, BatchNorm is folded into the convolution before it, and a pool rounds its size up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size up to its stride. Its bias is also that of a folded BatchNorm."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


def conv_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, stride, groups), nn.ReLU())


def half() -> nn.MaxPool2d:
    """Caffe's pool of 3x3, stride 2."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def alexnet() -> nn.Module:
    """BVLC AlexNet (Krizhevsky et al. 2012): images (N, 3, 227, 227) to 1,000 probabilities."""
    features = [nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5), half()]
    features += [conv_relu(96, 256, 5, groups=2), nn.LocalResponseNorm(5), half(), conv_relu(256, 384, 3)]
    features += [conv_relu(384, 384, 3, groups=2), conv_relu(384, 256, 3, groups=2), half()]
    dense = [nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*features, nn.Flatten(), *dense, nn.Softmax(1)).eval()


def vgg16() -> nn.Module:
    """VGG-16 (Simonyan and Zisserman 2015): images (N, 3, 224, 224) to 1,000 probabilities."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers.append(conv_relu(inputs, outputs, 3))
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    dense = [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, nn.Flatten(), *dense, nn.Softmax(1)).eval()


class Residual(nn.Module):
    """The sum of the layers and a shortcut, then ReLU."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.layers, self.shortcut = layers, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.layers(x))


def resnet(counts: tuple[int, ...], bottleneck: bool) -> nn.Module:
    """The ResNet (He et al. 2016) for images (N, 3, 224, 224), with these many blocks a stage.

    As in Caffe's, every stage begins with a projection, and a bottleneck has its stride in the first 1x1 convolution.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), half()]
    inputs = 64
    for stage, count in enumerate(counts):
        width = 64 << stage
        outputs = 4 * width if bottleneck else width
        for index in range(count):
            stride = 2 if stage and not index else 1
            if bottleneck:
                block = [conv_relu(inputs, width, 1, stride), conv_relu(width, width, 3), conv(width, outputs, 1)]
            else:
                block = [conv_relu(inputs, width, 3, stride), conv(width, outputs, 3)]
            shortcut = nn.Identity() if index else conv(inputs, outputs, 1, stride)
            layers.append(Residual(nn.Sequential(*block), shortcut))
            inputs = outputs
    return nn.Sequential(*layers, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(inputs, 1000), nn.Softmax(1)).eval()


def resnet18() -> nn.Module:
    return resnet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> nn.Module:
    return resnet((3, 4, 6, 3), bottleneck=True)


class Branches(nn.Module):
    """The channels of every branch, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception(inputs: int, widths: tuple[int, ...]) -> nn.Module:
    """GoogLeNet's block; ``widths`` as in its table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection."""
    single, three_in, three, five_in, five, pool = widths
    return Branches(
        conv_relu(inputs, single, 1),
        nn.Sequential(conv_relu(inputs, three_in, 1), conv_relu(three_in, three, 3)),
        nn.Sequential(conv_relu(inputs, five_in, 1), conv_relu(five_in, five, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_relu(inputs, pool, 1)),
    )


def googlenet() -> nn.Module:
    """BVLC GoogLeNet (Szegedy et al. 2015) without its training heads: images (N, 3, 224, 224)."""
    layers: list[nn.Module] = [conv_relu(3, 64, 7, 2), half(), nn.LocalResponseNorm(5), conv_relu(64, 64, 1)]
    layers += [conv_relu(64, 192, 3), nn.LocalResponseNorm(5), half()]
    layers += [inception(192, (64, 96, 128, 16, 32, 32)), inception(256, (128, 128, 192, 32, 96, 64)), half()]
    layers += [inception(480, (192, 96, 208, 16, 48, 64)), inception(512, (160, 112, 224, 24, 64, 64))]
    layers += [inception(512, (128, 128, 256, 24, 64, 64)), inception(512, (112, 144, 288, 32, 64, 64))]
    layers += [inception(528, (256, 160, 320, 32, 128, 128)), half()]
    layers += [inception(832, (256, 160, 320, 32, 128, 128)), inception(832, (384, 192, 384, 48, 128, 128))]
    return nn.Sequential(*layers, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(1024, 1000), nn.Softmax(1)).eval()


def fire(inputs: int, squeeze: int, expand: int) -> nn.Module:
    """SqueezeNet's block: ``2 * expand`` channels, half from 1x1 and half from 3x3."""
    return nn.Sequential(
        conv_relu(inputs, squeeze, 1), Branches(conv_relu(squeeze, expand, 1), conv_relu(squeeze, expand, 3))
    )


def squeezenet_features() -> nn.Sequential:
    """SqueezeNet 1.1 (Iandola et al. 2016) up to its last fire module: 512 channels; the sixth layer's are 256."""
    stem = nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), half())
    fires = [fire(64, 16, 64), fire(128, 16, 64), half(), fire(128, 32, 128), fire(256, 32, 128), half()]
    fires += [fire(256, 48, 192), fire(384, 48, 192), fire(384, 64, 256), fire(512, 64, 256)]
    return nn.Sequential(stem, *fires)


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1: images (N, 3, 227, 227). The 1x1 classifier is padded by 1, as in the parameter file."""
    head = [nn.Conv2d(512, 1000, 1, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)]
    return nn.Sequential(squeezenet_features(), *head).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "alexnet": (alexnet, (3, 227, 227)),
    "vgg16": (vgg16, (3, 224, 224)),
    "resnet18": (resnet18, (3, 224, 224)),
    "resnet50": (resnet50, (3, 224, 224)),
    "googlenet": (googlenet, (3, 224, 224)),
    "squeezenet": (squeezenet, (3, 227, 227)),
}
"""By name in ncnn's benchmark: what builds the network, and the shape of its input without the batch."""
