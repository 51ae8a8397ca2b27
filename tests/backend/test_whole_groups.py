"""What can be cut of networks in which something cannot, or whose answers are no numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgesdk.network.cutting import difference
from edgesdk.network.trace import trace


class Ended(nn.Module):
    """Two layers and what is made of their answer."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.end = nn.Linear(8, 16), nn.Linear(16, 4), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.first(x).relu()))


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "no number": lambda y: torch.log(-1 - y * y),
    "no number in places": lambda y: torch.sqrt(y - y.mean(-1, keepdim=True)),
    "infinite": lambda y: y / (y - y),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_answers_that_are_no_numbers_do_not_keep_a_layer_from_being_cut(end: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    graph = trace(Ended(end).eval(), torch.randn(2, 8)).graph
    assert graph.group_by_name["first"].fixed is None


class Unrolled(nn.Module):
    """A cell whose state begins as zeros: its second layer reads no channels first, then those of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.state, self.wide, self.head = (nn.Linear(*s) for s in ((8, 16), (16, 16), (16, 24), (24, 4)))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0, :1]).expand(-1, 16)
        for part in x.unbind(1):
            h = torch.tanh(self.step(part) + self.state(h))
        return self.head(self.wide(h).relu())


class ScaledByOne(nn.Module):
    """A PReLU with one slope for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slope, self.second = nn.Conv2d(3, 16, 3), nn.PReLU(), nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.slope(self.first(x)))


class Unfolded(nn.Module):
    """As a MobileViT does it: channels and rows are one axis of several samples, sized by a product of products."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        count, channels, rows, columns = y.shape
        patches = y.reshape(count * channels * (rows // 2), 2, columns // 2, 2).transpose(1, 2)
        patches = patches.reshape(count, channels, rows * columns // 4, 4).transpose(1, 3).softmax(2)
        return self.second(patches.transpose(1, 3).reshape(count, channels, rows, columns))


class Resized(nn.Module):
    """As a ViT does it on smaller images: a table of positions is interpolated, and added to what a layer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 16, 8, 8))
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y + nn.functional.interpolate(self.table, y.shape[2:], mode="bicubic", antialias=True))


class Standardized(nn.Conv2d):
    """A convolution whose weight is standardized each time anew."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(input, weight, self.bias)


class Laid(nn.Linear):
    """A linear layer that holds its weight the other way round, and its bias as a column."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs)
        self.bias = nn.Parameter(torch.randn(outputs, 1))

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.t(), self.bias.squeeze(1))


class Conv1D(Laid):
    """A linear layer as transformers writes it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, input: Tensor) -> Tensor:
        return torch.addmm(self.bias, input, self.weight)


class WordsTwice(nn.Module):
    """A language model's: words are looked up in the table by which they are answered."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden = nn.Embedding(20, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words((x > 0).long())
        return nn.functional.linear(words + self.hidden(words).relu(), self.words.weight)


FACES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "standardized weights": (
        lambda: nn.Sequential(Standardized(3, 16, 3), nn.SiLU(), Standardized(16, 4, 3)), (2, 3, 8, 8), "0",
    ),
    "weights the other way round": (lambda: nn.Sequential(Laid(8, 16), nn.ReLU(), Laid(16, 4)), (2, 8), "0"),
    "as transformers multiplies": (lambda: nn.Sequential(Conv1D(8, 16), nn.ReLU(), Conv1D(16, 4)), (2, 8), "0"),
    "words in and out": (WordsTwice, (2, 8), "embedding"),
    "a table that is resized": (Resized, (2, 3, 8, 8), "first"),
    "a cell that is used again": (Unrolled, (2, 3, 8), "wide"),
    "channels beside rows": (Unfolded, (2, 3, 8, 8), "first"),
    "one slope": (ScaledByOne, (2, 3, 8, 8), "first"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "shape", "free"), FACES.values(), ids=FACES)
def test_what_stays_whole_leaves_the_rest_to_be_cut(
    make: Callable[[], nn.Module], shape: tuple[int, ...], free: str
) -> None:
    torch.manual_seed(0)
    graph = trace(make().eval(), torch.randn(shape)).graph
    assert [group.name for group in graph.groups if group.fixed is None] == [free]


class Blocks(nn.Module):
    """Pairs of layers; of some what is between them is shaped by a size that is no product of the batch."""

    def __init__(self, count: int, shaped: frozenset[int]) -> None:
        super().__init__()
        self.wide = nn.ModuleList(nn.Linear(8, 32) for _ in range(count))
        self.back = nn.ModuleList(nn.Linear(32, 8) for _ in range(count))
        self.shaped = shaped

    def forward(self, x: Tensor) -> Tensor:
        for number, (wide, back) in enumerate(zip(self.wide, self.back, strict=True)):
            hidden = wide(x).relu()
            if number in self.shaped:
                hidden = hidden.reshape(hidden.numel() // 2, 2).flip(1).reshape(x.shape[0], 32)
            x = back(hidden)
        return x


def test_what_is_to_blame_is_found_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a trial of the others for each width it takes two for each group that cannot be cut, however many can."""
    tried: list[int] = []

    def counted(*given: Any) -> Any:
        tried.append(len(given[-1]))
        return difference(*given)

    monkeypatch.setattr("edgesdk.network.trace.difference", counted)
    torch.manual_seed(0)
    graph = trace(Blocks(20, frozenset({3, 11})).eval(), torch.randn(2, 8)).graph
    free = [group.name for group in graph.groups if group.fixed is None]
    assert sorted({f"wide.{n}" for n in range(20)} - set(free)) == ["wide.11", "wide.3"]
    assert [count for count in tried if count != len(free)] == [39, 1, 38, 1]


class Tied(nn.Module):
    """Reads a table twice, once as the weight that is computed of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.linear(self.table(x).relu(), 2 * self.table.weight.t()))


def test_what_others_read_is_not_held_twice() -> None:
    torch.manual_seed(0)
    names = {name for name, _ in trace(Tied().eval(), torch.randn(2, 8)).module.named_parameters()}
    assert names == {"table.weight", "second.weight", "second.bias"}
