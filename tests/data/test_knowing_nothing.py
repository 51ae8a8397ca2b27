"""By whatever a model is judged, one that knows nothing of its samples is refused, and one that knows something not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError, DataError, EdgeSdkError, EdgeSdkWarning, ModelError
from edgesdk.workflows.inputs import read_inputs

COUNT, BATCH, CLASSES, WIDTH = 300, 50, 4, 6


class Recorded(nn.Module):
    """Gives recorded answers: x is the place of each."""

    def __init__(self, *answers: Tensor, keys: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.answers, self.keys = answers, keys

    def forward(self, x: Tensor) -> Any:
        values = [answer[x[:, 0].long()] for answer in self.answers]
        return dict(zip(self.keys, values, strict=True)) if self.keys else values[0] if len(values) == 1 else values


def batches(y: Any = None) -> SimpleNamespace:
    """Places of samples in batches, with the targets ``y`` of a batch's rows."""
    rows = torch.arange(COUNT).split(BATCH)
    parts = [(r[:, None].float(), y(r)) if y else (r[:, None].float(),) for r in rows]
    return SimpleNamespace(train=None, calibration=parts[:2], test=parts[2:])


def looked_at(model: nn.Module, data: Any, metric: Any, budget: Budget | None = None, **more: Any) -> list[str]:
    """What is warned of a model that is not refused."""
    inputs = read_inputs(model, data, None, metric, 0, **more)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inputs.checked(budget, False, lambda stage, share: None)
    return [str(one.message) for one in caught if issubclass(one.category, EdgeSdkWarning)]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


class Counted:
    """Accuracy over all that it has seen."""

    def __init__(self) -> None:
        self.right = self.count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += int((outputs.softmax(1).argmax(1) == targets).sum())
        outputs.zero_()  # as people's metrics do
        self.count += len(targets)

    def compute(self) -> float:
        return 100 * self.right / self.count


class Boxes:
    """The distance of each object's box, negated, of targets that are a dict per batch, or a list of them."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, outputs: Any, targets: Any) -> None:
        own = [targets["boxes"][i] for i in range(len(targets["boxes"]))] if isinstance(targets, dict) else targets
        for row, boxes in enumerate(own):
            boxes = boxes["boxes"] if isinstance(boxes, dict) else boxes
            self.total += float((outputs["boxes"][row][: len(boxes)] - boxes).abs().mean())
            self.count += 1

    def compute(self) -> float:
        return -self.total / self.count


def classifies(knows: bool, data_y: bool = True) -> tuple[nn.Module, Any]:
    y = torch.arange(COUNT) % CLASSES
    right = nn.functional.one_hot(y, CLASSES).float() + 0.3 * torch.randn(COUNT, CLASSES)
    return Recorded(right if knows else torch.randn(COUNT, CLASSES)), batches(lambda rows: y[rows])


def sorted_by_class(knows: bool) -> tuple[nn.Module, Any]:
    y = torch.arange(COUNT) * CLASSES // COUNT
    right = nn.functional.one_hot(y, CLASSES).float() + 0.3 * torch.randn(COUNT, CLASSES)
    return Recorded(right if knows else torch.randn(COUNT, CLASSES)), batches(lambda rows: y[rows])


def detects(knows: bool, as_list: bool) -> tuple[nn.Module, Any]:
    boxes = torch.randn(COUNT, 5, 4)
    answered = boxes + 0.2 * torch.randn(COUNT, 5, 4) if knows else torch.randn(COUNT, 5, 4)
    model = Recorded(answered, torch.rand(COUNT, 5, 3), keys=("boxes", "scores"))
    if as_list:
        return model, batches(lambda rows: [{"boxes": boxes[r, : 1 + r % 4], "iscrowd": False} for r in rows.tolist()])
    return model, batches(lambda rows: {"boxes": boxes[rows], "labels": rows % 3})


FACES: dict[str, tuple[Callable[[bool], tuple[nn.Module, Any]], Any]] = {
    "a function": (classifies, accuracy),
    "an object with a state, which writes into the outputs": (classifies, Counted),
    "samples sorted by class": (sorted_by_class, accuracy),
    "a metric of torchmetrics": (classifies, "torchmetrics:Accuracy"),
    "a detector whose targets are tensors": (lambda knows: detects(knows, False), Boxes),
    "a detector whose targets are lists": (lambda knows: detects(knows, True), Boxes),
}


@pytest.mark.parametrize("face", FACES)
def test_a_metric_of_one_s_own_tells_a_model_at_chance_from_one_that_knows(face: str) -> None:
    made, metric = FACES[face]
    assert looked_at(*made(True), metric) == []
    with pytest.raises(DataError, match=r"no better than answers that know nothing of the sample.*--force"):
        looked_at(*made(False), metric)


def test_what_no_metric_can_tell_is_said_and_not_held_against_the_model() -> None:
    model, data = classifies(True)
    (told,) = looked_at(model, data, lambda outputs, targets: float(outputs.std()))
    assert "and as much with the targets of other samples" in told
    same = batches(lambda rows: torch.full((len(rows), CLASSES), 3.0))
    with pytest.raises(DataError, match=r"targets of all .* samples are the same"):
        looked_at(model, same, "mse")


def test_targets_that_are_not_one_for_each_sample_are_no_error() -> None:
    boxes = torch.randn(COUNT, 5, 4)
    model = Recorded(torch.randn(COUNT, 5, 4), keys=("boxes",))

    def of_a_batch(rows: Tensor) -> dict[str, Tensor]:  # all objects of a batch, each with its sample's number
        numbers = torch.arange(len(rows)).repeat_interleave(2)[:, None]
        return {"objects": torch.cat([boxes[rows, :2].flatten(0, 1), numbers], 1)}

    class Table(Boxes):
        def update(self, outputs: Any, targets: Any) -> None:
            objects = targets["objects"]
            self.total += float((outputs["boxes"][objects[:, 4].long(), 0] - objects[:, :4]).abs().sum())
            self.count += len(objects)

    assert looked_at(model, batches(of_a_batch), Table) == []


@pytest.mark.parametrize("metric", [Boxes, "mse"])
def test_a_detector_that_answers_the_same_to_all_is_refused(metric: Any) -> None:
    boxes = torch.randn(COUNT, 5, 4)
    model = Recorded(torch.ones(COUNT, 5, 4), torch.zeros(COUNT, 5, 3), keys=("boxes", "scores"))
    data = batches(lambda rows: {"boxes": boxes[rows]}) if metric is Boxes else batches()
    with pytest.raises(ModelError, match="gives the same answer to each of"):
        looked_at(model, data, metric)
    beside = Recorded(boxes, torch.zeros(COUNT, 5, 3), keys=("boxes", "anchors"))
    assert looked_at(beside, data, metric) == []


@pytest.mark.parametrize("metric", ["top-1", "multilabel-f1", "binary-accuracy"])
def test_without_labels_a_model_that_decides_alike_on_all_is_refused(metric: str) -> None:
    answers = torch.randn(COUNT, CLASSES)
    assert looked_at(Recorded(answers), batches(), metric) == []
    with pytest.raises(ModelError, match=r"decides alike on each of .* samples, by which nothing can be judged"):
        looked_at(
            Recorded(answers - 100 * (torch.arange(CLASSES) > -1) + 50 * (torch.arange(CLASSES) == 2)),
            batches(),
            metric,
        )
    one = Recorded(torch.ones(COUNT, CLASSES) + torch.arange(CLASSES))
    still = SimpleNamespace(train=None, calibration=[(torch.zeros(150, 1),)], test=[(torch.zeros(150, 1),)])
    assert looked_at(one, still, metric) == []  # it is one sample, given many times


def test_few_test_samples_are_joined_by_those_that_calibrate() -> None:
    y = torch.arange(160) % CLASSES
    with pytest.raises(DataError, match="on 160 samples, no better than answers that know nothing"):
        looked_at(nn.Linear(WIDTH, CLASSES), (torch.randn(160, WIDTH), y), "top-1")


@pytest.mark.parametrize("metric", [accuracy, Counted, "top-1"])
def test_a_score_far_below_what_is_wanted_names_causes_by_any_metric(metric: Any) -> None:
    y = torch.arange(COUNT) % CLASSES
    answer = torch.where(torch.rand(COUNT) < 0.6, y, torch.randint(CLASSES, (COUNT,)))
    model = Recorded(nn.functional.one_hot(answer, CLASSES).float())
    wanted = 0.95 if metric is accuracy else 95.0
    with pytest.raises(
        BudgetError, match=r"than the .* that are wanted: check that the weights are this model's"
    ) as told:
        looked_at(model, batches(lambda rows: y[rows]), metric, Budget(accuracy=wanted))
    assert ("numbered as the model does" in str(told.value)) == (metric == "top-1")


def test_one_output_of_several_that_is_no_number_is_enough() -> None:
    y = torch.arange(COUNT) % CLASSES
    scores, others = nn.functional.one_hot(y, CLASSES).float(), torch.randn(COUNT, 2)
    others[60:] = float("nan")
    with pytest.raises(EdgeSdkError, match="answers NaN to"):
        looked_at(Recorded(scores, others), batches(lambda rows: y[rows]), "top-1", output=0)
