"""The networks that the benchmarks run on, in plain torch: one of each kind that people put onto small devices."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size up to its stride, and its BatchNorm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut; where the shape changes, that is a 1x1 convolution with BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, 3, stride)
        self.conv2 = conv_bn(outputs, outputs, 3)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2016, section 4.2: 6n + 2 layers of 16, 32 and 64 channels.

    Takes images of shape (N, 3, 32, 32) and returns logits of shape (N, 10). Unlike the paper's option A, a shortcut
    that changes shape is a convolution (its option B): padding with zero channels cannot be pruned.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth {depth} is not 6n + 2")
        blocks = (depth - 2) // 6
        self.stem = conv_bn(3, 16, 3)
        self.stages = nn.Sequential()
        inputs = 16
        for outputs, first in ((16, 1), (32, 2), (64, 2)):
            for index in range(blocks):
                self.stages.append(Residual(inputs, outputs, first if index == 0 else 1))
                inputs = outputs
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(torch.relu(self.stem(x)))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet(depth: int) -> nn.Module:
    """The CIFAR ResNet with ``depth`` = 6n + 2 weighted layers. Raises ``ValueError`` for another depth."""
    return ResNet(depth)


def resnet20() -> nn.Module:
    return resnet(20)


def resnet14() -> nn.Module:
    return resnet(14)


def resnet8() -> nn.Module:
    return resnet(8)


class Inverted(nn.Module):
    """An inverted residual with a linear bottleneck (Sandler et al. 2018, figure 3): widen, filter, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [conv_bn(inputs, hidden, 1), nn.ReLU6()] if expansion != 1 else []
        layers += [conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(), conv_bn(hidden, outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class MobileNetV2Small(nn.Module):
    """MobileNetV2 (Sandler et al. 2018) for images of shape (N, 3, 32, 32), with fewer and narrower stages."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 1, 1))
    """Expansion, channels, blocks and first stride of each stage, as in the paper's table 2."""

    def __init__(self) -> None:
        super().__init__()
        layers, inputs = [conv_bn(3, 16, 3), nn.ReLU6()], 16
        for expansion, outputs, blocks, first in self.STAGES:
            for index in range(blocks):
                layers.append(Inverted(inputs, outputs, first if index == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, conv_bn(inputs, 256, 1), nn.ReLU6())
        self.fc = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def mobilenet_v2_small() -> nn.Module:
    return MobileNetV2Small()


class Joined(nn.Module):
    """A layer of a DenseNet: what it reads, with what it makes of that behind it."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.layers = conv_bn(inputs, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.relu(self.layers(x))], 1)


class DenseNetSmall(nn.Module):
    """A DenseNet (Huang et al. 2017) for images of shape (N, 3, 32, 32): blocks of four layers, thinned in between.

    Its norms come after convolutions, so that they fold into them.
    """

    def __init__(self, growth: int = 16, blocks: int = 2, layers: int = 4) -> None:
        super().__init__()
        parts, channels = [conv_bn(3, 16, 3), nn.ReLU()], 16
        for block in range(blocks):
            if block:
                parts += [conv_bn(channels, channels // 2, 1), nn.ReLU(), nn.AvgPool2d(2)]
                channels //= 2
            for _ in range(layers):
                parts.append(Joined(channels, growth))
                channels += growth
        self.features, self.fc = nn.Sequential(*parts), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def densenet_small() -> nn.Module:
    return DenseNetSmall()


class DsCnn(nn.Module):
    """MLPerf Tiny's keyword spotting network (Banbury et al. 2021; Zhang et al. 2017).

    Takes 10 MFCC features of 49 frames, shape (N, 1, 49, 10), and returns logits of shape (N, 12).
    """

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(64), nn.ReLU(), nn.Dropout(0.2)]
        for _ in range(4):
            layers += [conv_bn(64, 64, 3, groups=64), nn.ReLU(), conv_bn(64, 64, 1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Dropout(0.4))
        self.fc = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def ds_cnn() -> nn.Module:
    return DsCnn()


class Attention(nn.Module):
    """Multi-head self-attention over tokens of shape (N, tokens, dim) (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.projection(mixed.transpose(1, 2).reshape(n, tokens, -1))


class Encoder(nn.Module):
    """A pre-norm transformer block: attention, then a GELU network of four times the width."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViTSmall(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) for images of shape (N, 3, 32, 32); its 64 tokens are averaged."""

    def __init__(self, dim: int = 64, blocks: int = 3, heads: int = 4, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (32 // patch) ** 2, dim) * 0.02)
        self.blocks = nn.Sequential(*(Encoder(dim, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.fc(self.norm(self.blocks(tokens)).mean(1))


def vit_small() -> nn.Module:
    return ViTSmall()


class ConvGru(nn.Module):
    """Two 1-D convolutions and a GRU, as used on motion sensors.

    Takes 8 signals of 64 samples, shape (N, 8, 64), and returns logits of shape (N, 6).
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(8, 32, 5, 2, 2, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Conv1d(32, 64, 3, 1, 1, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
        )
        self.gru = nn.GRU(64, 64, batch_first=True)
        self.fc = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(self.features(x).transpose(1, 2))
        return self.fc(states[:, -1])


def conv_gru() -> nn.Module:
    return ConvGru()
