"""Data that are read otherwise than the model was trained on: the error names the mistake where it can be told."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError
from edgesdk.data.readings import find_better_pixels
from edgesdk.data.sanity import judged_dense
from edgesdk.network.network import answer
from edgesdk.workflows.inputs import read_inputs

COUNT, CLASSES, WIDTH = 400, 10, 6


def error(model: Any, x: Tensor, y: Tensor, metric: str = "top-1", **more: Any) -> EdgeSdkError | None:
    half = COUNT // 2
    parts = [(x[:half], y[:half]), (x[half:], y[half:])]
    pixels = x.dtype == torch.uint8
    data = (x, y) if pixels else SimpleNamespace(train=None, calibration=parts[:1], test=parts)
    inputs = read_inputs(model, data, None, metric, 0, **more)
    return judged_dense(inputs.model, inputs.data, inputs.task).error


class Knows(nn.Module):
    """Classes that are told by the largest of so many figures, ``right`` of a hundred."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def known(right: float, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    y = torch.arange(COUNT) % classes
    answer = torch.where(torch.rand(COUNT) < right, y, torch.randint(classes, (COUNT,)))
    return nn.functional.one_hot(answer, classes).float() + 0.1 * torch.rand(COUNT, classes), y


def swapped(y: Tensor, one: int, other: int) -> Tensor:
    return torch.where(y == one, other, torch.where(y == other, one, y))


@pytest.mark.parametrize("right", [0.95, 0.8])
def test_two_classes_that_are_swapped_are_found_though_the_others_are_right(right: float) -> None:
    x, y = known(right)
    assert error(Knows(), x, y) is None
    told = error(Knows(), x, swapped(y, 3, 8))
    assert isinstance(told, DataError) and "what is labelled 3 it calls 8" in told.fact
    assert "number the labels as the model does" in told.remedy


def test_a_weak_model_of_many_classes_is_not_taken_for_one_in_another_order() -> None:
    """Of classes that are there once, any order agrees with all that is answered: none is made of that."""
    y = torch.randperm(1000)[:COUNT]
    answer = torch.where(torch.rand(COUNT) < 0.4, y, torch.randint(1000, (COUNT,)))
    assert error(Knows(), nn.functional.one_hot(answer, 1000).float(), y) is None


class Linear(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize(
    ("change", "says", "remedy"),
    [
        (lambda y: y * 57.3, "with its answers times 57.", "bring y to the unit"),
        (lambda y: (y - 4) / 20, "with its answers times 0.05", "bring y to the unit"),
        (lambda y: y * torch.tensor([1.0, 10.0, 100.0]) + 7, "times factors, and with offsets", "bring y to the unit"),
        (lambda y: y[:, [1, 2, 0]], "what y has at 0 it answers at 1", "into the order of the model's answers"),
        (lambda y: torch.randn_like(y) + 9, "no better than answering the mean", "y is in the unit and order"),
    ],
)
def test_targets_in_another_unit_or_order_are_told(change: Any, says: str, remedy: str) -> None:
    x, weight = torch.randn(COUNT, WIDTH), torch.randn(WIDTH, 3)
    y = x @ weight + 0.1 * torch.randn(COUNT, 3)
    assert error(Linear(weight), x, y, "mse") is None
    told = error(Linear(weight), x, change(y), "mse")
    assert isinstance(told, DataError) and says in told.fact and remedy in told.remedy


def test_a_large_answer_in_another_unit_is_told_as_one_figure() -> None:
    x = torch.randn(COUNT, 2, 9, 9)
    model = nn.Conv2d(2, 1, 3)
    y = model(x).detach()
    assert error(model, x, y, "mse") is None
    told = error(model, x, y * 255, "mse")
    assert told is not None and "with its answers times 255" in told.fact


COLORS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])


class PlaceOrColor(nn.Module):
    """Takes the brightest column where one is, and else the nearest color."""

    def forward(self, x: Tensor) -> Tensor:
        place = x.mean((1, 2))
        color = -(x.mean((2, 3))[:, None] - 0.1 - 0.7 * COLORS).square().sum(2)
        return torch.where((place.amax(1) - place.amin(1) > 0.2)[:, None], place * 9, color)


def test_channels_in_another_order_are_found_in_a_model_that_is_mostly_right_with_them() -> None:
    """Three of four samples are told by where they are bright, one by its color: 75 % are right in any order."""
    rows = torch.arange(COUNT)
    y, by_place = rows % 4, rows // 4 % 4 < 3
    x = torch.rand(COUNT, 3, 4, 4) * 0.2
    x[rows[by_place], :, :, y[by_place]] += 0.4
    x[~by_place] += 0.7 * COLORS[y[~by_place], :, None, None]
    pixels = (x * 255).to(torch.uint8)
    assert error(PlaceOrColor(), pixels, y) is None
    told = error(PlaceOrColor(), pixels.flip(1), y)
    assert told is not None and "blue, green, red" in told.fact and "--channel-order BGR" in told.remedy


@pytest.mark.parametrize("metric", ["mse", "own"])
def test_pixels_prepared_otherwise_are_found_by_any_metric(metric: str) -> None:
    x = (torch.rand(COUNT, 3, 6, 6) * 255).to(torch.uint8)

    class Inner(nn.Module):
        """Prepares pixels of 0 to 255 itself."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh((x / 255 - 0.5).mean((2, 3)) * 9)

    y = Inner()(x.float())
    judged: Any = "mse" if metric == "mse" else lambda outputs, y: -float((outputs - y).abs().mean())
    told = error(Inner(), x, y, judged)
    assert isinstance(told, DataError) and "give --input-range 0,255" in told.remedy
    assert error(Inner(), x, y, judged, preprocess={"input_range": "0,255"}) is None


class Bright(nn.Module):
    """Takes the brightest channel of pixels from 0 to 255, and is blind where all are below 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).clamp(min=2.0)


@pytest.mark.parametrize("shift", [1, 2])
def test_pixels_of_which_nothing_can_be_told_do_not_hide_labels_in_another_order(shift: int) -> None:
    """They may score more than labels that are all wrong."""
    x, y = known(0.95, 3)
    pixels = (0.3 * x + 0.2)[:, :, None, None].expand(-1, -1, 4, 4)

    class Means(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    inputs = read_inputs(Means(), (pixels, (y + shift) % 3), None, "top-1", 0)
    run, task, data = partial(answer, inputs.model), inputs.task, inputs.data
    assert find_better_pixels(run, data, task, list(data.test), 0.0) is None
    told = judged_dense(inputs.model, data, task).error
    assert told is not None and "with its classes in another order" in told.fact


@pytest.mark.parametrize("labels", ["of another model", "at random"])
def test_pixels_read_so_that_one_class_is_the_answer_to_all_are_not_named(labels: str) -> None:
    """It may score more than what is wrong, as the most frequent class does, and says nothing of the cause."""
    x, y = known(0.95, 3)
    pixels = (0.3 * x + 0.2)[:, :, None, None].expand(-1, -1, 4, 4)
    most = torch.arange(COUNT) % 4 > 0  # three of four are of the class that such a reading answers
    wrong = (
        torch.where(most, 0, (y + 1) % 3)
        if labels == "of another model"
        else torch.where(most, 0, torch.randint(3, y.shape))
    )

    class Doubtful(nn.Module):
        """Answers by the brightest channel where pixels lie within 0 and 1, and with the first class else."""

        def forward(self, x: Tensor) -> Tensor:
            seen = (x.amax((1, 2, 3)) <= 1) & (x.amin((1, 2, 3)) >= 0)
            return torch.where(seen[:, None], x.mean((2, 3)), torch.tensor([1.0, 0.0, 0.0]))

    told = error(Doubtful(), pixels, wrong)
    assert told is not None and "with pixels" not in told.fact


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("face", ["order", "pixels"])
def test_weights_that_were_not_given_are_named_before_another_reading(face: str, weights: bool) -> None:
    """What was not trained may score better with classes in another order, or pixels in another range, too."""
    x, y = known(0.95, 3)
    model: nn.Module = Knows()
    if face == "order":
        y = (y + 1) % 3
    else:
        model, x = Bright(), (x[:, :, None, None] * 200).to(torch.uint8).expand(-1, -1, 4, 4)
    inputs = read_inputs(model, (x, y), None, "top-1", 0)
    told = judged_dense(inputs.model, inputs.data, inputs.task, weights).error
    assert type(told) is (DataError if weights else ModelError)
    first = told.remedy.startswith("give --weights, for none were given, or ")
    assert first is not weights and told.remedy.endswith("--force")
    assert ("another order" if face == "order" else "pixels as 0 to 255") in told.fact
