"""Networks are compared on held-out samples by the user's metric, or by the dense model where it says nothing there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgesdk.data.agreement import Agreement
from edgesdk.data.judging import settle_comparison
from edgesdk.data.points import point
from edgesdk.data.task import Task

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
SOUND = [(X, torch.zeros(64))]  # as training samples of an anomaly detector are
MIXED = [(X, torch.arange(64) % 2)]


def dense(x: Any) -> Tensor:
    return torch.tanh(x[:, :3])


def rough(x: Any) -> Tensor:
    return dense(x).round(decimals=1)


def rougher(x: Any) -> Tensor:
    return dense(x).round()


def area(outputs: Tensor, labels: Tensor) -> float:
    """The area under the ROC curve of the first output."""
    broken, sound = outputs[labels > 0, 0], outputs[labels == 0, 0]
    return float((broken[:, None] > sound[None]).float().mean())


def one_class(outputs: Tensor, labels: Tensor) -> float:
    """As scikit-learn's metrics do."""
    if len(labels.unique()) < 2:
        raise ValueError("Only one class is present in y_true")
    return area(outputs, labels)


class Summed:
    """A metric with a state whose figure needs both."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def update(self, outputs: Any, labels: Tensor) -> None:
        self.seen += labels.tolist()

    def compute(self) -> float:
        return sum(self.seen) / len(self.seen) if any(self.seen) else float("inf")


@pytest.mark.parametrize("metric", [area, one_class, Summed()], ids=["nan", "an error", "infinite"])
@pytest.mark.parametrize("output", [0, None])
def test_a_metric_that_says_nothing_there_gives_way_to_the_dense_model(metric: Any, output: int | None) -> None:
    task = Task(metric, output=output)
    assert settle_comparison(task, dense, MIXED) == (task, ())
    other, notes = settle_comparison(task, dense, SOUND)
    assert len(notes) == 1 and task.name in notes[0]
    scores = [other.score(run, SOUND, dense) for run in (dense, rough, rougher)]
    assert scores[0] == 100 and scores == sorted(scores, reverse=True) and len(set(scores)) == 3
    assert 0 < point(other, dense, SOUND) == pytest.approx(1)


def test_a_metric_of_our_own_is_gone_by_as_it_is() -> None:
    labels = [(X, torch.zeros(64, dtype=torch.long))]
    for task in (Task(), Task("mse", labelled=False)):
        assert settle_comparison(task, dense, labels) == (task, ())


@given(st.integers(1, 63), st.floats(1e-4, 1e4), st.floats(-5, 5))
def test_agreement_is_of_no_unit_and_of_no_batches(cut: int, scale: float, shift: float) -> None:
    reference, outputs = dense(X), rough(X)
    whole, parts, scaled = Agreement(), Agreement(), Agreement()
    whole.update(outputs, reference)
    for part in (slice(None, cut), slice(cut, None)):
        parts.update({"a": outputs[part]}, {"a": reference[part]})
    scaled.update(scale * (outputs.double() + shift), scale * (reference.double() + shift))
    assert parts.compute() == pytest.approx(whole.compute(), abs=1e-9)
    assert scaled.compute() == pytest.approx(whole.compute(), abs=1e-4)


def test_agreement_with_what_is_always_the_same_is_a_figure() -> None:
    for reference in (torch.zeros(8, 2), torch.full((8, 2), 3.0)):
        same, other = Agreement(), Agreement()
        same.update(reference, reference)
        other.update(reference + 1, reference)
        assert same.compute() == 100 and torch.isfinite(torch.tensor(other.compute())) and other.compute() < 100


def test_a_point_is_a_hundredth_of_what_is_not_in_per_cent() -> None:
    assert point(Task(), dense, MIXED) == 1
    assert point(Task(area), dense, MIXED) == pytest.approx(area(dense(X), MIXED[0][1]) / 100)
    assert point(Task("mse", labelled=False), dense, MIXED) == pytest.approx(float(dense(X).var(0).mean()) / 100)
