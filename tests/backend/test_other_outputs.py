"""Outputs that are not judged stay the dense model's: in prices, in the ranking of channels, and through recovery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.apply import compressed
from edgesdk.compress.criteria import ranked
from edgesdk.compress.sensitivity import importance, measure_sensitivity
from edgesdk.core.plan import Option
from edgesdk.data.task import Task
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.train.recovery import SOFT, Recovery, Term
from edgesdk.train.trainer import Schedule, recovered
from edgesdk.workflows.inputs import Inputs, read_inputs


class Heads(nn.Module):
    """A trunk and two heads with a layer of their own: scores of three classes, and four figures beside them."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.trunk, self.form = nn.Sequential(nn.Linear(6, 24), nn.ReLU()), form
        self.scores = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
        self.figures = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Any:
        y = self.trunk(x)
        return self.form(self.scores(y), self.figures(y))


def nearest(outputs: Tensor, targets: Tensor) -> float:
    return -float((outputs - targets).abs().mean())


X = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
BITS = (X[:, :3] > 0).float()
CLASSES = X[:, :3].argmax(1)
# The form of the outputs, the targets, the metric, which output is judged, and the place of the other one.
FACES: dict[str, tuple[Callable[..., Any], Tensor, Any, str, int]] = {
    "classes in a dict": (lambda s, f: {"boxes": f.view(-1, 2, 2), "scores": s}, CLASSES, "top-1", "scores", 0),
    "classes and numbers": (lambda s, f: (s, None, 3, [f]), CLASSES, "top-1", "0", 1),
    "several labels": (lambda s, f: {"labels": s, "embedding": f}, BITS, "multilabel-f1", "labels", 1),
    "figures": (lambda s, f: (f, s.softmax(1)), X[:, :4], "mse", "0", 1),
    "an own metric": (lambda s, f: {"a": s, "b": f}, X[:, :4], nearest, "b", 0),
}


def read(face: str) -> tuple[Inputs, Network, int]:
    form, y, metric, output, other = FACES[face]
    torch.manual_seed(3)
    inputs = read_inputs(Heads(form), (X, y), None, metric, 0, output=output)
    return inputs, trace(inputs.model, inputs.data.example), other


def cut(network: Network, inputs: Inputs) -> Network:
    """``network`` with two of three channels gone of each group, those that matter least."""
    kept = {group.name: group.size // 3 for group in network.graph.groups if group.fixed is None}
    scores = ranked(network, inputs.data.calibration, inputs.task)
    return compressed(network, models.plan(network, kept), inputs.data.example, scores)[0]


def off(small: Network, dense: Network, place: int, inputs: Inputs) -> float:
    """How far one output is from the dense model's on test data, of its spread."""
    with torch.no_grad():
        pairs = [(small.flat(x)[place], dense.flat(x)[place]) for x, _ in inputs.data.test]
    actual, expected = (torch.cat(side) for side in zip(*pairs, strict=True))
    return float((actual - expected).square().mean() / expected.var())


RECOVERIES = {"usual": Recovery(), "soft": Recovery(losses=(Term(SOFT),)), "self": Recovery(mode="self")}


@pytest.mark.parametrize(
    ("face", "how"), [*((face, "usual") for face in FACES), ("classes in a dict", "soft"), ("figures", "self")]
)
def test_recovery_brings_all_outputs_back(face: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, dense, other = read(face)
    small = cut(dense, inputs)

    def learnt() -> float:
        result = recovered(
            small, dense, {}, inputs.data.train, [x for x, _ in inputs.data.calibration], inputs.task, Schedule(8),
            recovery=RECOVERIES[how],
        )  # fmt: skip
        return off(result.network, dense, other, inputs)

    held = learnt()
    assert held < 0.5 * off(small, dense, other, inputs)
    monkeypatch.setattr(Task, "has_others", lambda *_: False)
    assert held < 0.7 * learnt()  # without: the test can fail


@pytest.mark.parametrize("face", FACES)
def test_what_only_another_output_reads_has_a_price_and_a_rank(face: str) -> None:
    inputs, dense, _ = read(face)
    own = {f"{head}.0": head for head in ("scores", "figures")}
    groups = {own[name]: g.name for g in dense.graph.groups for name in g.layers if name in own}
    assert set(groups) == set(own.values())
    scores = importance(dense, inputs.data.calibration, inputs.task)
    space = {layer.name: (Option(),) for layer in dense.graph.layers}
    x = inputs.data.example
    losses = measure_sensitivity(dense, space, x, scores, inputs.task)
    for group in groups.values():
        assert float(scores[group].max()) > 0
        assert losses.widths[group][min(losses.widths[group])] > 1e-5


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_output_that_is_always_the_same_outweighs_nothing(value: float) -> None:
    task, dense = Task("top-1"), [torch.randn(8, 3), torch.full((8, 4), value)]
    near = [dense[0], dense[1] + 1e-2]
    assert float(task.drift(dense, dense)) == 0
    assert float(task.drift(near, dense)) < 1e-3
    judge = Task("mse", output=None)
    assert float(judge.fidelity_loss([torch.tensor([[2.0]])], [torch.tensor([[1.0]])])) == pytest.approx(1.0)
