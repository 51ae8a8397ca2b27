"""MLPerf Tiny's image classification network, for one-channel images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(outputs)
        self.conv2: nn.Conv2d = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut: nn.Conv2d | nn.Identity = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet8(nn.Module):
    """ResNet-8 of MLPerf Tiny (Banbury et al. 2021): a stem and three residual blocks of 16, 32 and 64 channels.

    Takes images of shape (N, channels, H, W) and returns logits of shape (N, classes).
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv: nn.Conv2d = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn: nn.BatchNorm2d = nn.BatchNorm2d(16)
        self.block1: Block = Block(16, 16, 1)
        self.block2: Block = Block(16, 32, 2)
        self.block3: Block = Block(32, 64, 2)
        self.fc: nn.Linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet8() -> nn.Module:
    """The built-in example's network, without its weights."""
    return ResNet8()
