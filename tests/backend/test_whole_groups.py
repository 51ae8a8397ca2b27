"""What can be cut of networks in which something cannot, or whose answers are no numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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


FACES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "a cell that is used again": (Unrolled, (2, 3, 8), "wide"),
    "one slope": (ScaledByOne, (2, 3, 8, 8), "first"),
}


@pytest.mark.parametrize(("make", "shape", "free"), FACES.values(), ids=FACES)
def test_what_stays_whole_leaves_the_rest_to_be_cut(
    make: Callable[[], nn.Module], shape: tuple[int, ...], free: str
) -> None:
    torch.manual_seed(0)
    graph = trace(make().eval(), torch.randn(shape)).graph
    assert [group.name for group in graph.groups if group.fixed is None] == [free]
