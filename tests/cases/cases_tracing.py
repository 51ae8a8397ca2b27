"""What tracing must not lose: writes through views, parametrized weights, sub-graphs, strides, outputs of all kinds."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases_harness import Case, floats, ids
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune


class Around(nn.Module):
    """Two convolutions and a head, with something between the convolutions; images (N, 3, 12, 12)."""

    def __init__(self, middle: Callable[[Tensor], Any], channels: int = 16) -> None:
        super().__init__()
        self.stem, self.norm, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(channels, 24, 3)
        self.middle, self.head = middle, nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.norm(self.stem(x)))
        return self.head(self.last(x).relu().mean((2, 3)))


def strided(x: Tensor) -> Tensor:
    x[:, ::2].mul_(-1.5)
    return x


def through_a_view(x: Tensor) -> Tensor:
    x.view(x.size(0), -1)[:, :200].add_(1)
    return x.relu()


def a_chunk(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    F.relu_(first)
    second.mul_(first + 1)
    return x


def masked(x: Tensor) -> Tensor:
    x[x > 0.5] = 0.5
    x.masked_fill_((x < -0.5).any(1, keepdim=True).expand(-1, x.size(1), -1, -1), -0.25)
    return x


def into(x: Tensor) -> Tensor:
    result = torch.empty_like(x)
    torch.mul(x, 0.5, out=result)
    return torch.add(result, x.relu(), out=result)


def preallocated(x: Tensor) -> Tensor:
    whole = torch.zeros(x.size(0), 16, 14, 14)
    whole[:, :, 1:-1, 1:-1] = x
    whole[:, 3].fill_(0.7)
    whole[:, 4:6].copy_(whole[:, 6:8])
    return whole


def twice_in_place(x: Tensor) -> Tensor:
    kept = x.clone()
    x.clamp_(-1, 1).add_(kept)
    return x + kept


def aliased(x: Tensor) -> Tensor:
    same = x[:]
    x += 1
    return same * x


def through_data(x: Tensor) -> Tensor:
    x.data.clamp_(-1, 1)
    return x + (x.data.sign() - x.data)


def rows(x: Tensor) -> Tensor:
    x.transpose(2, 3)[:, :, 0].zero_()
    x.select(1, 2).sub_(x.select(1, 3))
    return x


def diagonals(x: Tensor) -> Tensor:
    x.diagonal(dim1=2, dim2=3).fill_(1)
    x.diagonal(-2, 3, 1).mul_(-2)
    return torch.diagonal_scatter(x, x[:, :, 0, :11], 1, 2, 3)


class Counter(nn.Module):
    """A buffer that is written to in evaluation mode, and one that is read."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("shift", torch.linspace(-1, 1, 16).reshape(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.relu(x + self.shift, inplace=True)


class Canvas(nn.Module):
    """A buffer that is painted anew in each call, and added as it is: the same for every sample."""

    canvas: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("canvas", torch.zeros(1, 16, 12, 12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.canvas.zero_()
        self.canvas[:, :, 3:9] += 1
        painted = (x + self.canvas).relu() + self.canvas
        self.canvas.fill_(9)
        return painted


class Untracked(nn.Module):
    """Frozen layers and a head without gradients, one of them inside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.dropout(self.inner(x).relu_(), 0.2, self.training)
            with torch.enable_grad():
                x = x * self.scale
        with torch.set_grad_enabled(self.training), torch.autocast("cuda", enabled=False):
            return F.hardtanh(x, -2, 2)


class Lower(nn.Module):
    """A part in bfloat16, and one in it that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.inner(x)
            with torch.autocast("cpu", enabled=False):
                x = x.float().sigmoid()
        return self.outer(x)


class Widths(nn.Module):
    """Layers in 16 and 64 bits between those in 32, and what comes out in 64."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(16, 16, 1).half(), nn.Conv2d(16, 16, 3, padding=1).double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x.half()).to(x.dtype)
        x = self.wide(x.double().relu_()) * torch.arange(16, dtype=torch.float64)[:, None, None]
        return x.float()


class Symmetric(nn.Module):
    """A parametrization of the user's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.transpose(0, 1)) / 2


def own_parametrization() -> nn.Module:
    layer = nn.Conv2d(16, 16, 3, padding=1)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "bias", nn.Tanh())
    return nn.Sequential(layer, nn.ReLU(inplace=True))


def normed_old() -> nn.Module:
    return nn.Sequential(
        nn.utils.weight_norm(nn.Conv2d(16, 16, 3, padding=1)), nn.LeakyReLU(0.1, inplace=True),
        nn.utils.spectral_norm(nn.Conv2d(16, 16, 1)),
    )  # fmt: skip


def normed_new() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, padding=1)), nn.SiLU(inplace=True),
        parametrizations.weight_norm(nn.Conv2d(16, 16, 1), dim=None),  # pyright: ignore[reportArgumentType]  # documented
        parametrizations.orthogonal(nn.Conv2d(16, 16, 1)),
    )  # fmt: skip


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Conv2d(16, 16, 3, padding=1), "weight", 0.4)


class Flattened(nn.Module):
    """Views that depend on strides: of samples with a free count of them, and of channels taken apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, 2)
        self.c, self.d = nn.Linear(256, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 12, 12)
        x = self.b(self.a(x).relu()).relu()
        x = x.view(x.shape[0], 4, 4, 16).view(-1, 256)
        return self.d(self.c(x).relu())


class Transposed(nn.Module):
    """The same behind transposes and in another memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Linear(8, 16), nn.Linear(1600, 5)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 12, 12)
        x = self.a(x.contiguous(memory_format=torch.channels_last)).relu()
        x = self.b(x.permute(0, 2, 3, 1).contiguous().view(-1, 8)).relu()
        return self.c(x.view(-1, 1600))


Pair = namedtuple("Pair", "mean extra")


class Attributes(OrderedDict):
    """What is read as items and as attributes, as Hugging Face's models return it."""

    __getattr__ = OrderedDict.__getitem__


class Kept(UserDict):
    """A dict of one's own, which PyTorch does not know."""


@dataclass
class Found:
    logits: Tensor
    loss: Tensor | None = None
    features: tuple[Tensor, ...] = ()
    classes: int = 5


class Returning(nn.Module):
    """Two layers, and what they make of an image (N, 3, 12, 12) returned in one way or another."""

    def __init__(self, returned: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.returned = nn.Conv2d(3, 16, 3, 2), nn.Linear(16, 5), returned

    def forward(self, x: Tensor) -> Any:
        features = self.a(x).relu()
        return self.returned(self.b(features.mean((2, 3))), features)


def through_strides(x: Tensor) -> Tensor:
    x = x.contiguous()
    seen = x.as_strided((x.shape[0], x.shape[1], 2, 3), (x.stride(0), x.stride(1), 2 * x.stride(2), 2), 1)
    seen.mul_(3)
    x.as_strided((len(x), x.shape[1]), x.stride()[:2]).zero_()
    return x


WRITES = {
    "every second channel": strided, "a slice of a view": through_a_view, "a chunk": a_chunk, "masks": masked,
    "results given": into, "a frame that is filled": preallocated, "activations in a row": twice_in_place,
    "diagonals": diagonals, "an alias": aliased, "rows of a transpose": rows, "data": through_data,
    "strides": through_strides,
}  # fmt: skip
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "a counter": Counter, "a canvas": Canvas, "parts without gradients": Untracked,
    "a parametrization": own_parametrization, "norms of weights, old": normed_old,
    "norms of weights, new": normed_new, "a pruned layer": pruned,
}  # fmt: skip
RETURNS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "none and numbers": lambda y, f: (None, y, 3, True, "name", [f.mean(1)]),
    "nested": lambda y, f: {"out": {"y": y, "none": None}, "list": [f, (2.5, {"z": y.softmax(1)})]},
    "a named tuple": lambda y, f: Pair(mean=y, extra={"f": f}),
    "a dataclass": lambda y, f: Found(y, features=(f, f.flatten(1))),
    "attributes": lambda y, f: Attributes(logits=y, hidden=Found(f)),
    "a dict of one's own": lambda y, f: Kept(scores=y, features=f),
    "one twice": lambda y, f: (y, y),
    "classes": lambda y, f: (y.argmax(1), y.max(1).values, y > 0),
}


class Tokenwise(nn.Module):
    """Positions and a mask that are made in forward() by writes; tokens (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.head = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x[:, 1:] += x[:, :-1] * 0.5
        mask = torch.ones_like(tokens, dtype=x.dtype)
        mask[tokens == 0] = 0
        return self.head((self.up(x).relu_() * mask[..., None]).mean(1))


class Echo(Around):
    """Returns what it is given beside what it makes of it."""

    def forward(self, x: Tensor) -> Any:
        return {"x": x, "y": super().forward(x), "again": x}


class Normalizing(Around):
    """Writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).div_(2.0))


class OwnNumbers(nn.Module):
    """Asks what its own parameters, buffers and other tensors hold: how often, whether, by how much."""

    steps: Tensor
    ready: Tensor
    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(2))
        self.register_buffer("ready", torch.tensor(1, dtype=torch.uint8))
        self.register_buffer("scales", torch.tensor([0.5, 2.0, 3.0]), persistent=False)
        self.part, self.strides = nn.Parameter(torch.tensor(0.3)), torch.tensor([4, 8])
        self.a, self.positions = nn.Conv2d(16, 16, 3, 1, 1), nn.Embedding(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        if self.ready.item() == 0 or not self.ready:
            raise RuntimeError("not initialized")
        for _ in range(int(self.steps)):
            x = x + self.part.item() * self.a(x).relu()
        many: Any = self.strides[0] * 3
        x = x + self.positions(torch.arange(many))
        low, _, high = self.scales.tolist()
        rows: Any = self.strides[1]
        whole = torch.full((12, 1), rows) / self.scales.max().item()
        same = torch.equal(self.scales, self.scales.abs()) and torch.allclose(self.scales.sum(), torch.tensor(5.5))
        return x.clamp(-high, high / low) * whole if same else x


class Remembered(nn.Module):
    """Keeps a grid for as long as images are as large as before, by all of their sizes or an image's."""

    sizes: Any = None
    grid: Any = None

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole, self.a = whole, nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.sizes != (x.shape if self.whole else x.shape[2:]):
            samples = x.shape[0] if self.whole else 1
            self.grid = torch.linspace(-1, 1, x.shape[3]).repeat(samples, 1, x.shape[2], 1)
            self.sizes = x.shape if self.whole else x.shape[2:]
        return self.a(x) + self.grid


ASKS: dict[str, Callable[[], nn.Module]] = {
    "its own numbers": OwnNumbers, "the last sizes": lambda: Remembered(True),
    "the last sizes of an image": lambda: Remembered(False),
}  # fmt: skip
CASES = (
    *(Case(f"asks: {n}", lambda f=f: Around(f()), floats(3, 12, 12)) for n, f in ASKS.items()),
    Case("plain", lambda: Around(nn.ReLU()), floats(3, 12, 12)),
    *(Case(f"writes: {n}", lambda f=f: Around(f), floats(3, 12, 12), ("dense",)) for n, f in WRITES.items()),
    *(Case(f"layers: {n}", lambda f=f: Around(f()), floats(3, 12, 12)) for n, f in LAYERS.items()),
    Case("layers: bfloat16 inside", lambda: Around(Lower()), floats(3, 12, 12), ("dense",), exact=0.05),
    Case("layers: of several widths", lambda: Around(Widths()), floats(3, 12, 12), ("dense",), exact=0.01),
    Case("views: flattened", Flattened, floats(3, 12, 12)),
    Case("views: transposed", Transposed, floats(3, 12, 12)),
    *(Case(f"returns: {n}", lambda f=f: Returning(f), floats(3, 12, 12), ("dense",)) for n, f in RETURNS.items()),
    Case("writes: its input", lambda: Normalizing(nn.ReLU()), floats(3, 12, 12), ("dense",)),
    Case("returns: its input", lambda: Echo(nn.ReLU()), floats(3, 12, 12), ("dense",)),
    Case("writes: tokens", Tokenwise, ids(10, 30)),
)
