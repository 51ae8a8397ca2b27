"""What a cut network holds, put back into the whole one: it answers the same, and is cut further as it is."""

from __future__ import annotations

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress import widening
from edgesdk.compress.apply import compressed
from edgesdk.compress.widening import Places, answer_alike
from edgesdk.network.trace import trace

NETWORKS = ("residual", "depthwise", "transformer", "recurrent")


@pytest.mark.parametrize("digits", [2**23, 500], ids=["small", "of more values than a float counts"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_widened_network_answers_as_the_cut_one(name: str, digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "DIGITS", digits)
    network, x = models.made(name, 8)
    half = {g.name: max(g.step, g.size // 2 // g.step * g.step) for g in network.graph.groups if g.fixed is None}
    plans = [models.plan(network, half), models.plan(network, {n: max(1, k // 2) for n, k in half.items()})]
    scores = models.scores(network)
    places = Places.find(network, plans[0], x, scores)
    assert half and places is not None
    small, _ = compressed(network, plans[0], x, scores)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in small.module.parameters():  # it has learnt
            value += 0.1 * value.std(unbiased=False) * torch.randn(value.shape, generator=generator)
    whole = places.widen(small, network)
    assert answer_alike(whole, small, x) is (name != "transformer"), "of a norm the mean is of fewer channels"
    again, _ = compressed(whole, plans[0], x, scores)
    assert all(torch.equal(value, small.module.state_dict()[n]) for n, value in again.module.state_dict().items())
    if name == "residual":  # whose branch may go, too
        gone = models.plan(network, half, dropped=tuple(branch.name for branch in network.graph.branches))
        own = Places.find(network, gone, x, scores)
        assert own is not None
        less, _ = compressed(network, gone, x, scores)
        assert answer_alike(own.widen(less, network), less, x)


class Decided(nn.Module):
    """Answers figures, the class, and whether it is sure."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.head(self.body(x).relu().mean((2, 3)))
        return y, y.argmax(-1), y.amax(-1) > 0.1


def test_whole_numbers_and_truths_are_compared_too() -> None:
    torch.manual_seed(1)
    x = torch.randn(8, 3, 8, 8)
    one, other = trace(Decided().eval(), x), trace(Decided().eval(), x)
    assert answer_alike(one, one.copy(), x) and not answer_alike(one, other, x)
