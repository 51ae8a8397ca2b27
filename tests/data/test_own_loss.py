"""A loss of the user's own: what may be given, what it prices, and that a network learns by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from edgesdk.compress.sensitivity import importance, measure_sensitivity
from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.data.targets import joined_targets
from edgesdk.network.trace import trace
from edgesdk.train.recovery import Recovery, Term
from edgesdk.train.trainer import Schedule, recovered
from edgesdk.workflows.inputs import Inputs, read_inputs

FLOAT = Option(FP32)
SAMPLES = 96
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(SAMPLES, 3, 8, 8, generator=RANDOM)
SCORES = torch.randint(0, 4, (SAMPLES,), generator=RANDOM)
BOXES = torch.rand(SAMPLES, 4, generator=RANDOM)


class Detector(nn.Module):
    """A backbone with two heads, and a number beside what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.scores, self.boxes = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.body(x).mean((2, 3))
        return {"scores": self.scores(x), "stride": 2, "boxes": self.boxes(x)}


def batches(*parts: Any) -> Any:
    """Data of one's own, the targets in whatever form."""
    split = [(X[i : i + 16], parts[i // 16]) for i in range(0, SAMPLES, 16)]
    return SimpleNamespace(train=split, calibration=split[:4], test=split[4:])


PAIRS = batches(*[{"scores": SCORES[i : i + 16], "boxes": BOXES[i : i + 16]} for i in range(0, SAMPLES, 16)])
LISTS = batches(*[[{"box": BOXES[j]} for j in range(i, i + 16)] for i in range(0, SAMPLES, 16)])


def both(outputs: Any, targets: Any) -> Tensor:
    boxes = F.smooth_l1_loss(outputs["boxes"], targets["boxes"])
    return F.cross_entropy(outputs["scores"], targets["scores"]) + outputs["stride"] * boxes


def boxes_alone(outputs: Any, targets: Any) -> Tensor:
    return 100 * F.mse_loss(outputs["boxes"], targets["boxes"])


def of_lists(outputs: Any, targets: Any) -> Tensor:
    wanted = torch.stack([target["box"] for target in targets])
    return 100 * F.mse_loss(outputs["boxes"], wanted)


def nearness(outputs: Any, targets: Any) -> float:
    return -float(F.mse_loss(outputs["boxes"], targets["boxes"]))


def read(loss: Any, data: Any = PAIRS, metric: Any = nearness) -> Inputs:
    torch.manual_seed(0)
    return read_inputs(Detector(), data, None, metric, 0, loss=loss)


def test_it_sees_what_the_model_returns_and_the_data_yield() -> None:
    made = read(both)
    (x, y), own = made.data.calibration[0], made.task.loss
    assert own is not None and own.name == "both"
    assert own.dense == pytest.approx(float(both(made.run(x), y)), rel=1e-5)
    network = trace(made.model, made.data.example)
    assert float(made.task.supervised(network.flat(x), y).detach()) == pytest.approx(own.dense, rel=1e-4)
    assert any("the loss both" in note for note in made.data.notes)


@pytest.mark.parametrize(("spec", "name"), [("torch.nn:HuberLoss", "HuberLoss"), ("{file}:plain", "plain")])
def test_it_may_be_named(spec: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def plain(outputs, targets):\n    return (outputs - targets).square().mean()\n")
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    inputs = read_inputs(model, (X, BOXES), None, "mse", 0, loss=spec.format(file=tmp_path / "own.py"))
    assert inputs.task.loss is not None and inputs.task.loss.name == name


FAULTY: list[tuple[Callable[[Any, Any], Any], str]] = [
    (lambda outputs, targets: (outputs["boxes"] - targets["boxes"]).square(), "not one number"),
    (lambda outputs, targets: 3.0, "gives float, not a tensor"),
    (lambda outputs, targets: outputs["boxes"].mean() * float("nan"), "is nan on the dense model's own outputs"),
    (lambda outputs, targets: outputs["nothing"], "failed with KeyError"),
    (lambda outputs, targets: outputs["boxes"].argmax().float(), "does not lead back"),
    (lambda outputs, targets: outputs["boxes"].detach().mean(), "does not lead back"),
    (lambda outputs, targets: (outputs["boxes"] * 0).sqrt().sum(), "gradient of the loss"),
    (lambda outputs: outputs["boxes"].mean(), "failed with TypeError"),  # type: ignore[list-item, misc]
]


@pytest.mark.parametrize(("loss", "says"), FAULTY, ids=[says for _, says in FAULTY])
def test_one_that_cannot_be_learnt_by_is_refused_at_once(loss: Any, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(loss)
    assert says in raised.value.fact and "\n" not in str(raised.value) and raised.value.remedy


@pytest.mark.parametrize("spec", ["hubert", "nowhere.py:loss", "torch.nn:NoSuchLoss", 3])
def test_what_there_is_not_is_refused(spec: Any) -> None:
    with pytest.raises(EdgeSdkError):
        read(spec)


def test_it_needs_targets() -> None:
    with pytest.raises(UsageError, match="without targets"):
        read_inputs(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), (X, None), None, "mse", 0, loss=F.mse_loss)


@pytest.mark.parametrize(("loss", "data"), [(boxes_alone, PAIRS), (of_lists, LISTS)])
def test_choices_are_priced_by_it(loss: Any, data: Any) -> None:
    """A head that the loss does not look at costs what the outputs are away by; the other one costs more than that."""
    metric = nearness if loss is boxes_alone else lambda outputs, targets: -float(of_lists(outputs, targets))
    made, plain = read(loss, data, metric), read(None, data, metric)
    network = trace(made.model, made.data.example)
    coarse = Option(INT8, weight_bits=4)
    space = {layer.name: (FLOAT, coarse) for layer in network.graph.layers}
    x = torch.cat([x for x, _ in made.data.calibration])
    y = joined_targets(made.data.calibration, len(x))

    def priced(of: Inputs) -> Any:
        scores = importance(network, of.data.calibration, of.task)
        return measure_sensitivity(network, space, x, scores, of.task, y=y).options

    own, without = priced(made), priced(plain)
    assert own["scores"][coarse] == pytest.approx(without["scores"][coarse], rel=1e-4, abs=1e-9)
    assert all(own[name][coarse] >= without[name][coarse] - 1e-9 for name in own)
    assert max(own[name][coarse] - without[name][coarse] for name in own) > 1e-4


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (SCORES[:4], SCORES[4:6], SCORES[:5]),
        ({"a": SCORES[:4]}, {"a": SCORES[4:6]}, {"a": SCORES[:5]}),
        ((SCORES[:4], BOXES[:4]), (SCORES[4:6], BOXES[4:6]), (SCORES[:5], BOXES[:5])),
        (["a", "b", "c", "d"], ["e", "f"], ["a", "b", "c", "d", "e"]),
        (tuple(BOXES[:4]), tuple(BOXES[4:6]), tuple(BOXES[:5])),  # of each sample as many as it has
        ({"names": ("a", "b", "c", "d")}, {"names": ("e", "f")}, {"names": ("a", "b", "c", "d", "e")}),
    ],
)
def test_targets_are_joined_as_they_come(first: Any, second: Any, together: Any) -> None:
    joined = joined_targets([(X[:4], first), (X[4:6], second)], 5)
    assert pytree.tree_structure(joined) == pytree.tree_structure(together)
    pairs = zip(pytree.tree_leaves(joined), pytree.tree_leaves(together), strict=True)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("recovery", [Recovery(), Recovery(losses=(Term("own"), Term("features", weight=0.1)))])
def test_a_network_learns_by_it(recovery: Recovery) -> None:
    made = read(boxes_alone)
    dense = trace(made.model, made.data.example)
    options = {layer.name: FLOAT for layer in dense.graph.layers}

    def loss(network: Any) -> float:
        with torch.no_grad():
            return sum(float(boxes_alone(network(x), y)) for x, y in PAIRS.train)

    calibration = [x for x, _ in made.data.calibration]
    learnt = recovered(
        dense, dense, options, PAIRS.train, calibration, made.task, Schedule(8), recovery=recovery
    ).network
    assert loss(learnt) < 0.5 * loss(dense)


def test_a_term_of_it_needs_it() -> None:
    with pytest.raises(UsageError, match="no loss was given"):
        Recovery(losses=(Term("own"),)).check(read(None).task)
