"""Networks in which a layer runs several times."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5


class Siamese(nn.Module):
    """One trunk for two images; images (N, 6, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.trunk(half).mean((2, 3)) for half in x.chunk(2, 1)], 1))


class Levels(nn.Module):
    """A detector's head over levels of several sizes, the convolution in common, a BatchNorm for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 2, 1)
        self.tower, self.norms = (
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.ModuleList(map(nn.BatchNorm2d, [32, 32])),
        )
        self.answer = nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [torch.relu(self.one(x))]
        levels.append(torch.relu(self.two(levels[0])))
        towers = [torch.relu(norm(self.tower(level))) for norm, level in zip(self.norms, levels, strict=True)]
        return torch.cat([self.answer(tower).flatten(2) for tower in towers], 2).mean(2)


class Steps(nn.Module):
    """A convolutional GRU, step by step, whose states begin with zeros; four steps (N, 6, 16, 16) of one sample."""

    def __init__(self, like: bool = False) -> None:
        super().__init__()
        self.gates, self.new = nn.Conv2d(6 + 24, 48, 3, padding=1), nn.Conv2d(6 + 24, 24, 3, padding=1)
        self.head, self.like = nn.Linear(24, CLASSES), like

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 24, 16, 16) if self.like else x.new_zeros(len(x), 24, *x.shape[2:])
        for _ in range(3):
            reset, update = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, 1)
            made = torch.tanh(self.new(torch.cat([x, reset * h], 1)))
            h = update * h + (1 - update) * made
        return self.head(h.mean((2, 3)))


class Again(nn.Module):
    """A residual block that runs three times (weights as in ALBERT), its LayerNorm too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(6, 32, 4, 4)
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(96, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).flatten(2).transpose(1, 2)
        for _ in range(3):
            x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


MODELS = {"siamese": Siamese, "levels": Levels, "steps": Steps, "again": Again}


def shared_model(name: str) -> tuple[nn.Module, Tensor]:
    """A network with settled statistics of its BatchNorms, and images for it."""
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.randn(32, 6, 16, 16)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None
        model.train()(x)
    return model.eval(), x
