"""Twelve small networks, each of another family."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.pipeline.study import Study

CLASSES = 5
Studied = Callable[[str], Study]  # what the fixture of that name gives: the study of a family


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution with its norm and ReLU."""
    made = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [made, nn.BatchNorm2d(outputs), nn.ReLU()]


class Pooled(nn.Module):
    """Features over an image or a signal, their mean, and a linear layer."""

    def __init__(self, width: int, *features: nn.Module) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(*features), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.mean((2, 3) if x.dim() == 4 else -1))


class Block(nn.Module):
    """What is added to its own input."""

    def __init__(self, *inner: nn.Module, relu: bool = True) -> None:
        super().__init__()
        self.inner, self.relu = nn.Sequential(*inner), relu

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.inner(x)
        return x.relu() if self.relu else x


class Tokens(nn.Module):
    """Patches, one attention over them and a network for each; images (N, 3, 16, 16)."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, dim, 4, 4), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down, self.head = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim), nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        n, tokens, dim = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, tokens, 3, 2, dim // 2).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, dim))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Rows(nn.Module):
    """A network for each row of a signal, as mixers have; signals (N, 8, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.second(self.first(x).relu())).mean(1))


class Recurrent(nn.Module):
    """A convolution over time, then a GRU; signals (N, 4, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r, self.h = nn.Conv1d(4, 16, 5, 2), nn.GRU(16, 12, batch_first=True), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.r(self.a(x).relu().transpose(1, 2))[0][:, -1])


class Masker(nn.Module):
    """Decides for each pixel; images (N, 3, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(*unit(3, 16), *unit(16, 16)), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.b(self.a(x)), 1)


class Skipping(nn.Module):
    """Down, up again, and joined with what was there before; images (N, 1, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(*unit(1, 12)), nn.Sequential(*unit(12, 24, stride=2))
        self.u, self.o = nn.ConvTranspose2d(24, 12, 2, 2), nn.Sequential(*unit(24, 12))
        self.h = nn.Conv2d(12, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return torch.flatten(self.h(self.o(torch.cat([self.u(self.b(a)), a], 1))), 1)


class Causal(nn.Module):
    """Residual blocks of dilated convolutions that see what was before, as keyword spotters have; (N, 10, 20)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(10, 16, 1), (16, 16, 2), (16, 16, 4)]
        self.first = nn.ModuleList(nn.Conv1d(i, o, 3, padding=2 * d, dilation=d) for i, o, d in sizes)
        self.second = nn.ModuleList(nn.Conv1d(o, o, 3, padding=2 * d, dilation=d) for _, o, d in sizes)
        self.beside, self.head = nn.Conv1d(10, 16, 1), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.first, self.second, strict=True):
            y = first(x)[..., : x.shape[-1]].relu()
            y = second(y)[..., : x.shape[-1]].relu()
            x = (y + (self.beside(x) if x.shape[1] == 10 else x)).relu()
        return self.head(x[..., -1])


def conv() -> nn.Module:
    return Pooled(24, *unit(3, 16), *unit(16, 24, stride=2))


def separable() -> nn.Module:
    return Pooled(24, *unit(3, 16), *unit(16, 16, groups=16), *unit(16, 24, 1))


def inverted() -> nn.Module:
    inner = [*unit(8, 24, 1), *unit(24, 24, groups=24), nn.Conv2d(24, 8, 1)]
    return Pooled(8, *unit(3, 8), Block(*inner, relu=False))


def residual() -> nn.Module:
    inner = [*unit(16, 16), nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)]
    return Pooled(16, *unit(3, 16), Block(*inner))


def audio() -> nn.Module:
    first = [nn.Conv1d(1, 16, 20, 8, bias=False), nn.BatchNorm1d(16), nn.ReLU()]
    return Pooled(24, *first, nn.Conv1d(16, 16, 5, 1, 2, groups=16), nn.ReLU(), nn.Conv1d(16, 24, 1), nn.ReLU())


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 40), nn.SiLU(), nn.Linear(40, CLASSES))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, CLASSES),
    )  # fmt: skip


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (conv, (3, 16, 16)),
    "separable": (separable, (3, 16, 16)),
    "inverted": (inverted, (3, 16, 16)),
    "residual": (residual, (3, 16, 16)),
    "audio": (audio, (1, 1000)),
    "mlp": (mlp, (24,)),
    "smooth": (smooth, (16,)),
    "lenet": (lenet, (1, 14, 14)),
    "tokens": (Tokens, (3, 16, 16)),
    "rows": (Rows, (8, 16)),
    "recurrent": (Recurrent, (4, 24)),
    "masker": (Masker, (3, 12, 12)),
}
MORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "skipping": (Skipping, (1, 16, 16)), "causal": (Causal, (10, 20)),
}  # fmt: skip
