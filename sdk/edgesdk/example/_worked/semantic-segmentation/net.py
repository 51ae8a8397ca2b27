"""A U-Net (Ronneberger et al. 2015) of three levels: what comes down is joined to what goes up."""

import torch
from torch import Tensor, nn

CLASSES = 4  # ground, disks, squares, crosses


def pair(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images of shape (N, 3, 48, 48) to logits of shape (N, 4, 48, 48)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = pair(3, width)
        self.second = pair(width, 2 * width)
        self.third = pair(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join2 = pair(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1 = pair(2 * width, width)
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down to a quarter of the size, and up again."""
        first = self.first(x)
        second = self.second(nn.functional.max_pool2d(first, 2))
        third = self.third(nn.functional.max_pool2d(second, 2))
        second = self.join2(torch.cat([self.up2(third), second], 1))
        return self.head(self.join1(torch.cat([self.up1(second), first], 1)))


def make() -> nn.Module:
    """The network."""
    return UNet()
