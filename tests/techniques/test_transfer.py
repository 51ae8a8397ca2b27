"""Laws of transfer: the body comes along to the bit, the head is new, and what is frozen stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.transfer import frozen, still, with_head


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6))
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def learn(module: nn.Module, steps: int = 5) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), 0.1, weight_decay=0.1)
    module.train()
    still(module)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(torch.randn(8, 1, 4, 4)), torch.arange(8) % 3).backward()
        optimizer.step()
    module.eval()


def test_the_body_comes_along_and_the_head_knows_nothing() -> None:
    net, x = Net().eval(), torch.randn(2, 1, 4, 4)
    other = with_head(net, "head", 3)
    assert other(x).shape == (2, 3) and not bool(other(x).any())
    assert torch.equal(other.get_submodule("body")(x), net.body(x))
    assert net.head.out_features == 10 and net(x).shape == (2, 10)  # the model itself is as it was
    assert not other.training


def test_while_the_body_is_frozen_nothing_of_it_moves_but_the_head_does() -> None:
    net = with_head(Net().train(), "head", 3)
    before = state(net)
    with frozen(net, "head"):
        learn(net)
    after = state(net)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("body."))
    assert not torch.equal(after["head.weight"], before["head.weight"])
    learn(net)
    assert all(not torch.equal(value, after[name]) for name, value in state(net).items())


def test_what_was_frozen_before_is_frozen_after() -> None:
    net = Net()
    net.head.bias.requires_grad_(False)
    net.body[0].weight.requires_grad_(False)
    with pytest.raises(KeyError), frozen(net, "head"):
        assert [name for name, value in net.named_parameters() if value.requires_grad] == ["head.weight"]
        raise KeyError
    left = {name for name, value in net.named_parameters() if not value.requires_grad}
    assert left == {"head.bias", "body.0.weight"}


BAD = [
    (lambda: with_head(Net(), "head", 0), "a head of 0 outputs"),
    (lambda: with_head(Net(), "neck", 3), "the head 'neck' is missing"),
    (lambda: with_head(Net(), "body.0", 3), "the head 'body.0' is a Conv2d"),
    (lambda: frozen(Net(), "body.2").__enter__(), "the head 'body.2' has no weights"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_what_does_not_fit_is_said_on_one_line(bad, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        bad()
    assert "\n" not in str(caught.value)
