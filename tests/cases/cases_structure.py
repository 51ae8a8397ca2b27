"""Layers that run several times or look alike, names that collide, integers between layers, rare operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from cases_harness import RUNTIMES, Case, floats, ids
from torch import Tensor, nn
from torch.nn import functional as F

WITH_VOLUMES = ("onnxruntime", "openvino")  # TFLite has no convolution over three axes


def pairs(*shape: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda count: (torch.randn(count, *shape), torch.randn(count, *shape))


class Siamese(nn.Module):
    """One encoder, with its BatchNorms, in two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.h = nn.Linear(32, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.h(torch.cat([self.e(a).mean((2, 3)), self.e(b).mean((2, 3))], 1))


class Again(nn.Module):
    """A convolution at three sizes, a linear layer twice, a norm behind two layers, one ReLU for all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.n, self.relu = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.u, self.h = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.n(self.a(x)))
        y = self.relu(self.n(self.c(x)))
        z = self.relu(self.c(F.max_pool2d(y, 2)))
        w = self.relu(self.c(F.max_pool2d(z, 2)))
        v = self.relu(self.u(w.mean((2, 3)) + z.mean((2, 3))))
        return self.h(self.relu(self.u(v) + v))


class Tied(nn.Module):
    """Words in and words out by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.u, self.o = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 30, bias=False)
        self.o.weight = self.e.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.o(self.u(self.e(words)).relu())


class Twins(nn.Module):
    """Layers with equal weights, one after the other and side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.d = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.l, self.h = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 4)
        self.d.load_state_dict(self.c.state_dict())
        with torch.no_grad():
            for part in self.l:
                part.get_parameter("weight").copy_(torch.eye(8))
                part.get_parameter("bias").zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = (x + self.c(x)).relu()
        x = (x + self.d(x)).relu() + self.c(self.d(x))
        x = x.mean((2, 3))
        for part in self.l:
            x = x + part(x).relu()
        return self.h(x)


class Names(nn.Module):
    """Layers and parameters called as inputs, outputs, operators and parts of graphs are."""

    def __init__(self) -> None:
        super().__init__()
        for name in (
            "x",
            "output",
            "relu",
            "linear",
            "add",
            "graph",
            "meta",
            "code",
            "quantizer_x",
            "node_linear",
            "a_b",
        ):
            self.add_module(name, nn.Linear(8, 8))
        self.a = nn.ModuleDict({"b": nn.Linear(8, 8), "weight": nn.Linear(8, 8)})
        self.words = nn.ModuleDict(
            {"in": nn.Linear(8, 8), "in_": nn.Linear(8, 8), "is": nn.Sequential(nn.Linear(8, 8))}
        )
        self.input, self.p_x_weight = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
        part = self.get_submodule
        y = part("output")(part("x")(x + self.input).relu() * self.p_x_weight + input).relu()
        for name in (
            "relu",
            "linear",
            "add",
            "graph",
            "meta",
            "code",
            "quantizer_x",
            "words.in",
            "words.in_",
            "words.is",
        ):
            y = y + part(name)(y).relu()
        return part("node_linear")(part("a_b")(y).relu()), part("a.weight")(part("a.b")(y).relu())


class Whole(nn.Module):
    """Whole numbers through operators, into tables; numbers and bools out."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.p, self.u, self.h = nn.Embedding(30, 16), nn.Embedding(20, 16), nn.Linear(22, 32), nn.Linear(32, 4)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = (words != 0).long()
        words = ((words * 3 + 1) % 30).clamp(0, 29)
        words = torch.where(words > 10, words, words + 2).relu()
        x = self.e(words) + self.p(mask.cumsum(1) * mask) + self.p(torch.arange(words.shape[1]))
        x = torch.cat([x, F.one_hot(words.clamp(0, 5), 6).float()], 2)
        y = self.h(self.u(x).relu().mean(1))
        return y, y.argmax(1), y > 0


class Tokens(nn.Module):
    """A residual MLP over tokens, with tables that have no batch, and a BatchNorm behind the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.u, self.d = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 32), nn.Linear(32, 16)
        self.p, self.q, self.c = (nn.Parameter(torch.randn(*s)) for s in ((16, 16), (16,), (1, 1, 16)))
        self.n, self.h = nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x).flatten(2).transpose(1, 2) + self.p
        x = torch.cat([self.c.expand(x.shape[0], -1, -1), x], 1)
        x = (x + self.d(self.u(x).relu() + 0.5)).relu() + self.q
        return self.h(self.n(x.mean(1)))


class Attentive(nn.Module):
    """Attention with a mask made of the input, filled scores, and learnt queries without heads."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.qkv, self.o, self.h = nn.Embedding(30, 16), nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 4)
        self.learnt, self.q = nn.Parameter(torch.randn(3, 16)), nn.Linear(16, 16)

    def forward(self, words: Tensor) -> Tensor:
        x, seen = self.e(words), (words > 4)[:, None, None, :]
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(n, t, c))
        scores = (q @ k.transpose(-1, -2) * 8**-0.5).masked_fill(~seen, -1e4).softmax(-1)
        x = x + self.o((scores @ v).transpose(1, 2).reshape(n, t, c))
        return self.h(F.scaled_dot_product_attention(self.q(self.learnt.expand(n, -1, -1)), x, x).mean(1))


class Upscaling(nn.Module):
    """Pixels to channels and back, three times as large, beside bicubic."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 36, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(F.pixel_shuffle(self.b(self.a(F.pixel_unshuffle(x, 2)).relu()), 3), 2)
        return y + F.interpolate(x, scale_factor=3, mode="bicubic", align_corners=False)


class Rare(nn.Module):
    """Between two convolutions what is there to be: each of ``parts`` in a row."""

    def __init__(self, *parts: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self.functions = parts

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        for part in self.functions:
            x = part(x)
        return self.h(self.b(x).relu().mean((2, 3)))


class Recurrent(nn.Module):
    """Convolutions over time, then a recurrent layer with most of the weights, from a state of as many samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r, self.h = nn.Conv1d(6, 16, 3), nn.GRU(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.r(self.a(x).relu().transpose(1, 2), torch.zeros(1, len(x), 32))[0][:, -1])


class Bags(nn.Module):
    """Words summed up in bags: their mean, their largest figures, weighted, without those that fill up, and bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.held = nn.EmbeddingBag(30, 8), nn.EmbeddingBag(30, 8, padding_idx=0)
        self.largest = nn.EmbeddingBag(30, 8, mode="max", padding_idx=-30)
        self.total = nn.EmbeddingBag(30, 8, mode="sum", padding_idx=2)
        self.bounded = nn.EmbeddingBag(30, 8, mode="sum", max_norm=1.5)
        self.each = nn.Embedding(30, 8, max_norm=2.0, norm_type=1.0)
        self.table = nn.Parameter(torch.randn(30, 8))
        self.u, self.h = nn.Linear(56, 16), nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        bounded = [self.bounded(words), self.each(words).mean(1), F.embedding_bag(words, self.table * 1, max_norm=1.0)]
        words = words % 7 * (words > 5)  # many zeros, some samples with nothing else
        weighted = self.total(words, per_sample_weights=words / 7)
        x = torch.cat([self.mean(words), self.held(words), self.largest(words), weighted, *bounded], 1)
        return self.h(self.u(x).relu())


class Windows(nn.Module):
    """Pools told the size of what they make, along ``axes``: windows of one size, and of several."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.a = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](2, 8, 3, padding=1)
        means = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 1]
        most = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[axes - 1]
        free: Any = None if axes == 1 else (*(None,) * (axes - 1), 3)
        self.means = nn.ModuleList(means(size) for size in (1, 4, 3, *([free] if free else ())))
        self.most = nn.ModuleList(most(size) for size in (2, 5, *([free] if free else ())))
        self.h = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.h(torch.cat([pool(x).flatten(1) for pool in (*self.means, *self.most)], 1))


class RawWeights(nn.Module):
    """An attention that is all sums over indices, with weights of its own, each computed of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Parameter(torch.randn(12, 2, 6) / 4) for _ in range(3))
        self.joined, self.told = nn.Parameter(torch.randn(2, 6, 12) / 4), nn.Parameter(torch.randn(12, 4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,dhe->bhte", x, weight) for weight in (self.query, self.key, self.value))
        weights = torch.einsum("bhte,bhse->bhts", q, k).softmax(-1)
        x = x + torch.einsum("bhte,hed->btd", torch.einsum("bhts,bhse->bhte", weights, v), self.joined)
        return F.linear(x.mean(1), self.told.t())


class Extremes(nn.Module):
    """The least or the most along some axes of real numbers, which an integer layer reads."""

    def __init__(self, most: bool, dims: tuple[int, ...], keepdim: bool) -> None:
        super().__init__()
        self.first, self.told = nn.Conv2d(3, 12, 3, 1, 1), (most, dims, keepdim)
        left = [size for axis, size in enumerate((1, 12, 8, 8)) if axis not in dims]
        self.second = nn.Conv2d(1, 4, 3) if keepdim else nn.Linear(math.prod(left), 4)

    def forward(self, x: Tensor) -> Tensor:
        most, dims, keepdim = self.told
        x = self.first(x).sigmoid() * x.mean(1, keepdim=True).exp()  # on no grid
        x = x.amax(dims, keepdim) if most else x.amin(dims, keepdim)
        return self.second(x).mean((2, 3)) if keepdim else self.second(x.flatten(1))


def windows(axes: int, length: int) -> Case:
    def make() -> nn.Module:
        model = Windows(axes)
        model(torch.zeros(1, 2, *[length] * axes))
        return model

    runtimes = RUNTIMES if axes < 3 else WITH_VOLUMES
    return Case(f"structure: windows along {axes}", make, floats(2, *[length] * axes), runtimes=runtimes)


class Backwards(nn.Module):
    """Down and up again, with a skip between; the narrow part is read by what goes up alone, as in a denoiser."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        down = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
        self.a, self.b = down(1, 8, 3, 2, 1), down(8, 12, 3, 2, 1)
        self.c, self.d = up(12, 8, 3, 2, 1, output_padding=1), up(16, 1, 3, 2, 1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.softplus(self.a(x))
        return x + self.d(torch.cat([self.c(self.b(a).relu()).relu(), a], 1))


class Largest(nn.Module):
    """The largest of each row, of each column by where they are, and of the channels; (N, 3, 6, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.a(x)
        rows, columns = x.topk(3).values.mean((2, 3)), x.topk(2, 2)
        where = (columns.values * (columns.indices + 1)).mean((2, 3))
        return self.h(rows + where), x.topk(1, 1)[1].flatten(1), x.mean((2, 3)).topk(2)[0]


class Spectra(nn.Module):
    """Waves (N, 2, 48) as the sizes of their spectra: half of each, half of each in a row, and whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv1d(4, 8, 3), nn.Conv1d(2, 8, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        waves = x * torch.hann_window(x.shape[-1])
        half, padded = torch.fft.rfft(waves).abs(), torch.view_as_real(torch.fft.rfft(waves, n=64))[..., :25, 0]
        found = self.a(torch.cat([half, padded], 1).square().log1p()).relu().mean(-1)
        whole = torch.view_as_real(torch.fft.fft(waves)).square().sum(-1).sqrt()
        return self.h(torch.cat([found, self.b(whole).relu().mean(-1)], 1))


def spread_by_zeros(x: Tensor) -> Tensor:
    """A mean becomes an image again by what is taken from it, which is nothing."""
    return (x.mean((2, 3), keepdim=True) - torch.zeros(1, 8, 12, 12)) + x


def there_and_back(x: Tensor) -> Tensor:
    """Spectra of lengths that are even and odd, padded and cut, along several axes, and what they come from."""
    turned = torch.polar(torch.ones(7), torch.arange(7.0))
    x = torch.fft.irfft(torch.fft.rfft(x) * turned, n=12) + F.pad(torch.fft.irfft(torch.fft.rfft(x, n=9), n=8), (0, 4))
    x = x + torch.fft.irfft2(torch.fft.rfft2(x, dim=(3, 2), norm="ortho"), s=(11, 12), dim=(3, 2))[..., :12, :1]
    x = x + torch.fft.ifft2(torch.fft.fft2(x) * 1j).imag
    longer = torch.fft.irfft(torch.fft.rfft(x, dim=2), n=15, dim=2)[:, :, :12]
    return x + longer + torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3)), s=(14, 13), dim=(2, 3))[:, :, 2:, 1:]


def windowed(x: Tensor) -> Tensor:
    """How large the spectrum of each window of 8 pixels is, of all pixels in a row."""
    waves = x.flatten(2).flatten(0, 1)
    found = torch.stft(waves, 8, 4, window=torch.hamming_window(8), return_complex=True).abs()
    every = torch.stft(waves, 8, 4, window=torch.hann_window(8), return_complex=True, onesided=False).abs()
    found = found + every[:, :5]
    return found.reshape(-1, 8, *found.shape[1:])


RARE: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "norms": (nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(1, 8, affine=False)),
    "functions": (nn.Mish(), nn.Softplus(), nn.SELU(), nn.CELU(0.5), nn.ELU(0.7), torch.erf, torch.round),
    "zeros": (spread_by_zeros,),
    "lengths": (
        lambda x: F.normalize(x, dim=1),
        lambda x: x + F.normalize(x, p=1, dim=(2, 3)),  # pyright: ignore[reportArgumentType]  # torch takes several
        torch.tril, torch.vmap(lambda sample: sample / (1 + sample.abs().amax())),
    ),
    "sizes": (
        nn.Upsample(size=(15, 17), mode="bicubic", align_corners=True),
        nn.Upsample(size=(21, 20), mode="nearest-exact"),
        nn.AdaptiveAvgPool2d(6), nn.AdaptiveAvgPool2d(4),
    ),
    "there and back": (there_and_back,),
    "windows of a signal": (windowed,),
    "smaller sizes": (nn.Upsample(size=(13, 7), mode="bicubic"),),
    "smooth sizes": (lambda x: F.interpolate(x, size=(5, 7), mode="bilinear", antialias=True),),
    "odd factors": (nn.Upsample(scale_factor=1.7, mode="bilinear"), nn.Upsample(scale_factor=(1.7, 0.55))),
    "infinities": (
        lambda x: F.max_pool2d(F.pad(x, (1, 0, 1, 0), value=-float("inf")), 2, 1),
        lambda x: F.max_pool2d(x.masked_fill(x < -0.5, -float("inf")), 3, 1, 1),
        lambda x: -F.max_pool2d(-F.pad(x, (0, 1, 0, 1), value=float("inf")), 2, 1),
    ),
    "a border of a value": (lambda x: F.pad(x, (1, 2, 0, 0), value=0.7),),
    "a border below zero": (lambda x: F.pad(x, (0, 0, 1, 1), value=-0.3),),
    "a border of channels": (lambda x: F.pad(x[:, 1:7], (0, 0, 0, 0, 1, 1), value=0.7),),
    "borders": (nn.CircularPad2d(2), nn.ReplicationPad2d((1, 2, 0, 1)), lambda x: torch.roll(x, (1, 2), (2, 3)),
                lambda x: F.pad(x, (-1, 2, 1, -2)), lambda x: F.pad(x, (1, -2, 3, 0), mode="reflect")),
}  # fmt: skip

CASES = (
    Case("structure: one encoder twice", Siamese, pairs(1, 16, 16)),
    Case("structure: layers again", Again, floats(3, 18, 18)),
    Case("structure: bags of words", Bags, ids(3, 30)),
    Case("structure: tied tables", Tied, ids(8, 30)),
    Case("structure: equal weights", Twins, floats(3, 10, 10)),
    Case("structure: names", Names, pairs(8)),
    Case("structure: whole numbers", Whole, ids(10, 30), ("dense",)),
    Case("structure: tokens", Tokens, floats(3, 32, 32)),
    Case("structure: attention", Attentive, ids(10, 30)),
    Case("structure: largest", Largest, floats(3, 6, 8), ("dense",)),
    Case("structure: spectra", Spectra, floats(2, 48)),
    *(windows(axes, 8) for axes in (1, 2, 3)),
    Case("structure: backwards along 1", lambda: Backwards(1), floats(1, 16)),
    Case("structure: backwards along 2", lambda: Backwards(2), floats(1, 8, 8)),
    Case(
        "structure: backwards along 3", lambda: Backwards(3), floats(1, 8, 8, 8), runtimes=("onnxruntime", "openvino")
    ),
    *(
        Case(
            f"structure: {'most' if most else 'least'} along {dims}",
            lambda t=(most, dims, keep): Extremes(*t),
            floats(3, 8, 8),
        )
        for most, dims, keep in ((True, (2, 3), False), (True, (1,), True), (False, (3,), False))
    ),
    Case("structure: raw weights", RawWeights, floats(7, 12)),
    Case("structure: upscaling", Upscaling, floats(1, 16, 16)),
    Case("structure: recurrent", Recurrent, floats(6, 20)),
    *(Case(f"structure: {name}", lambda parts=parts: Rare(*parts), floats(3, 12, 12)) for name, parts in RARE.items()),
)
