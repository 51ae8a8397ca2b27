"""Operators of which PyTorch's exporter leaves an argument out, or which it lacks."""

from __future__ import annotations

import torch
from cases_harness import Case, floats
from cases_tracing import Around
from torch import Tensor, nn
from torch.nn import functional as F


def divided(x: Tensor) -> Tensor:
    """Sums over windows, with a border, with windows that reach beyond it, and in three dimensions."""
    x = F.avg_pool2d(x, 3, 1, 1, divisor_override=4)
    x = F.avg_pool2d(x, (2, 3), (3, 2), (1, 1), ceil_mode=True, divisor_override=5)
    return F.avg_pool3d(x.unsqueeze(1), (3, 1, 1), (1, 1, 1), (1, 0, 0), divisor_override=2).squeeze(1)


def scattered(x: Tensor) -> Tensor:
    """Means of the pixels of a row by where they are put, with what was there and without; what is taken along it."""
    to = (x * 4).long().clamp(0, 11)
    x = torch.take_along_dim(x, torch.arange(11, -1, -1).reshape(1, 1, 1, -1), 3)
    x = x + x.scatter_reduce(3, to, x, reduce="mean", include_self=False)
    return x.scatter_reduce(3, to.flip(1), x, reduce="mean")


def slopes(x: Tensor) -> Tensor:
    """What is drawn in training alone, and is a number else; powers of 64 bits; what is detached."""
    x = F.rrelu(x - 0.5, 0.1, 0.5)
    x = x + torch.float_power(x.abs() + 0.1, 1.5).float() + torch.float_power(x.abs() + 1, x.sigmoid()).float()
    return (x.round() - x).detach() + x


def so_far(x: Tensor) -> Tensor:
    """Products up to each row, column and channel, along axes of any length."""
    x = (0.7 + x.sigmoid() / 2).cumprod(2) + x[..., :1].cumprod(-1)
    return x + (1 + x[:, :, :, :7].tanh() / 4).cumprod(1).sum(3, keepdim=True) + x.tanh().exp().log().cumsum(3)


def made_of_nothing(x: Tensor) -> Tensor:
    """Windows and tables that forward() computes of nothing, by operators that the exporter lacks or writes wrongly."""
    made = [
        torch.hamming_window(12), torch.hamming_window(12, False, 0.5, 0.4), torch.bartlett_window(12),
        torch.kaiser_window(12), torch.blackman_window(12, periodic=False), torch.fft.fftfreq(12),
        torch.linspace(0.9, 1.1, 12).cumprod(0), torch.lgamma(torch.linspace(1, 5, 12)),
    ]  # fmt: skip
    turned = torch.linalg.inv(2 * torch.eye(12) + 0.1)
    return x * torch.stack(made).sum(0) + x @ turned


class OfThatSize(nn.Module):
    """What is as large as something of which nobody asks more than how large it is; (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        least, one = torch.zeros_like(self.a(x)), torch.ones_like(self.b(x).relu(), dtype=torch.int64)
        half, none = torch.full_like(self.b(x), 0.5), self.a(x).new_zeros(x.shape[0], 6)
        return self.h(torch.maximum(least, self.b(x)) + one * half + none)


class Complex(nn.Module):
    """Complex parameters, of two real ones too, a layer of such, and some frequencies of a signal; (N, 2, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(2, 3, 5, dtype=torch.cfloat) / 2)
        self.real, self.imaginary = (nn.Parameter(torch.randn(12, 8) / 4) for _ in range(2))
        self.linear, self.h = nn.Linear(8, 6, dtype=torch.cfloat), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.einsum("bik,iok->bok", torch.fft.rfft(x)[..., :5], self.a)
        back = torch.fft.irfft(F.pad(found, (0, 2)), n=12)
        turned = torch.complex(back, back.roll(1, -1)) @ torch.complex(self.real, self.imaginary)
        return self.h(self.linear(turned).abs().mean(1))


class Flow(nn.Module):
    """What algebra makes of parameters: an inverse, determinants, a rotation, as flows have; (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(8, 8), nn.Linear(8, 5)
        self.w, self.turn = nn.Parameter(torch.randn(8, 8) / 4 + torch.eye(8)), nn.Parameter(torch.randn(8, 8) / 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) @ torch.inverse(self.w) @ torch.matrix_exp(self.turn - self.turn.T)
        return self.h(y) + torch.slogdet(self.w)[1] + torch.det(self.w) * torch.linalg.vector_norm(self.w)


def blocks(x: Tensor) -> Tensor:
    """Blocks that are laid side by side, with a rest beside them; that meet, with borders, holes and steps."""
    side = F.fold(F.unfold(x[..., :11, :], 3, stride=3).softmax(1), (11, 12), (3, 3), stride=3)
    other = F.fold(F.unfold(x, (3, 2), 2, 1, (2, 1)).tanh(), 12, (3, 2), 2, 1, (2, 1))
    return F.pad(side, (0, 0, 0, 1)) + other + nn.Fold((12, 12), 3, padding=1)(F.unfold(x, 3, padding=1).relu())


def in_the_middle(x: Tensor) -> Tensor:
    """Medians of odd and even numbers, along axes with others behind them."""
    x = x - torch.median(x, -1, True)[0]
    return x + x[..., :7].median(dim=3, keepdim=True).values - x.median(1)[0].unsqueeze(1)


class Bounded(nn.Module):
    """Numbers by the bounds between which they lie: below, at and above each, those of one's own axis too; (N, 8)."""

    bounds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bounds", torch.linspace(-1, 1, 9))
        self.words, self.h = nn.Embedding(10, 4), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 4).round() / 4  # so that some are the bounds themselves
        first = torch.bucketize(x, self.bounds)
        second = torch.searchsorted(self.bounds, x, right=True) + torch.bucketize(x, self.bounds, out_int32=True)
        own = torch.searchsorted(x.cumsum(1).exp().cumsum(1), x.exp(), side="right")
        return self.h((self.words(first) + self.words(second // 2) + self.words(own)).flatten(1))


CASES = (
    Case("spelled: blocks", lambda: Around(blocks), floats(3, 12, 12)),
    Case("spelled: bounds", Bounded, floats(8)),
    Case("spelled: in the middle", lambda: Around(in_the_middle), floats(3, 12, 12)),
    Case("spelled: algebra", Flow, floats(8)),
    Case("spelled: complex", Complex, floats(2, 12)),
    Case("spelled: of that size", OfThatSize, floats(8)),
    Case("spelled: made of nothing", lambda: Around(made_of_nothing), floats(3, 12, 12)),
    Case("spelled: divisors", lambda: Around(divided), floats(3, 12, 11)),
    Case("spelled: scattered", lambda: Around(scattered), floats(3, 12, 12), ("dense",), ("onnxruntime", "openvino")),
    Case("spelled: so far", lambda: Around(so_far), floats(3, 12, 12)),
    Case("spelled: slopes", lambda: Around(slopes), floats(3, 12, 12)),
)
