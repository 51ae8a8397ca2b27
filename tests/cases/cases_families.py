"""What families of networks have: groups, shuffles, branches, a width through norms, depthwise parts, boxes, words."""

from __future__ import annotations

import torch
from cases_harness import Case, floats, ids
from torch import Tensor, nn
from torch.nn import functional as F


def unit(i: int, o: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU6())


class Grouped(nn.Module):
    """Convolutions in few groups and in many, between pointwise ones (Xie et al. 2017, ResNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = unit(3, 16, 3, 2), nn.Sequential(unit(16, 32, 1), unit(32, 32, 3, 1, 4), unit(32, 16, 1))
        self.c = nn.Sequential(unit(16, 32, 1), unit(32, 32, 3, 1, 16), unit(32, 24, 1))
        self.h = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.h(self.c(x + self.b(x)).mean((2, 3)))


class Shuffled(nn.Module):
    """Half of the channels pass, half are transformed, all are shuffled (Ma et al. 2018, ShuffleNet V2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.left, self.right = unit(3, 8), unit(8, 12, 3, 2), unit(8, 12, 3, 2)
        self.parts = nn.ModuleList(nn.Sequential(unit(12, 12, 1), unit(12, 12, 3, 1, 12)) for _ in range(2))
        self.b, self.h = unit(24, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.shuffle(torch.cat([self.left(x), self.right(x)], 1))
        for part in self.parts:
            kept, changed = x.chunk(2, 1)
            x = self.shuffle(torch.cat([kept, part(changed)], 1))
        return self.h(self.b(x).mean((2, 3)))

    @staticmethod
    def shuffle(x: Tensor) -> Tensor:
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Branches(nn.Module):
    """Branches of several depths beside a pool, concatenated, and with what came before (GoogLeNet, DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.p, self.q = unit(3, 16), unit(16, 8, 1), nn.Sequential(unit(16, 8, 1), unit(8, 12))
        self.pool, self.b, self.c = nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(16, 4, 1)), unit(24, 16), unit(40, 12)
        self.h = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.cat([self.p(x), self.q(x), self.pool(x)], 1)
        return self.h(self.c(torch.cat([x, self.b(x)], 1)).mean((2, 3)))


class Normed(nn.Module):
    """A residual stream through LayerNorms, and one through a GroupNorm, as in transformers and diffusion models."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.n, self.u, self.d = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32), nn.Linear(32, 48), nn.Linear(48, 32)
        self.m, self.g, self.c = nn.LayerNorm(32), nn.GroupNorm(2, 32), nn.Conv2d(32, 32, 3, padding=1)
        self.h = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        x = x + self.c(F.silu(self.g(x)))
        x = x.flatten(2).transpose(1, 2)
        x = x + self.d(F.gelu(self.u(self.n(x))))
        return self.h(self.m(x).mean(1))


class Separable(nn.Module):
    """Depthwise and pointwise parts, along one axis as for waves (N, 1, 200) and along two as for images."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[axes - 1]

        def part(i: int, o: int, stride: int) -> list[nn.Module]:
            deep = conv(i, i, 5, stride, 2, groups=i, bias=False)
            return [deep, norm(i), nn.ReLU6(), conv(i, o, 1, bias=False), norm(o), nn.ReLU6()]

        stem = [conv(1, 12, 7, 2, 3, bias=False), norm(12), nn.ReLU()]
        self.f, self.h = nn.Sequential(*stem, *part(12, 20, 2), *part(20, 20, 1), *part(20, 32, 2)), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.f(x).flatten(2).mean(2))


class Detector(nn.Module):
    """Boxes and scores on the grids of two sizes, told by name; images (N, 1, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.up = unit(1, 12, 3, 2), unit(12, 24, 3, 2), nn.ConvTranspose2d(24, 12, 2, 2)
        self.score, self.box = nn.Conv2d(12, 1, 1), nn.Conv2d(12, 4, 1)
        self.coarse = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.a(x)
        coarse = F.silu(self.b(fine))
        fine = fine + self.up(coarse)
        return {"boxes": self.box(fine).sigmoid() * 32, "scores": self.score(fine), "coarse": self.coarse(coarse)}


class Clamped(nn.Module):
    """Whole numbers through operators, into a table, in a network that can be integer."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.u, self.v, self.h = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.h(self.v(self.u(self.e((words - 1).clamp(0, 29))).relu()).relu().mean(1))


CASES = (
    Case("families: groups", Grouped, floats(3, 12, 12)),
    Case("families: shuffled", Shuffled, floats(3, 12, 12)),
    Case("families: branches", Branches, floats(3, 12, 12)),
    Case("families: norms", Normed, floats(3, 16, 16)),
    Case("families: separable along 1", lambda: Separable(1), floats(1, 200)),
    Case("families: separable along 2", lambda: Separable(2), floats(1, 24, 24)),
    Case("families: detector", Detector, floats(1, 32, 32)),
    Case("families: clamped words", Clamped, ids(10, 30)),
)
