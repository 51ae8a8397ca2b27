"""What the detector's example brings of its own: its loss, its suppression and its metric against sums by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgesdk.data.metrics import read_metric, started
from edgesdk.network.load import load_callable
from edgesdk.workflows.examples import copy_example
from edgesdk.workflows.inputs import read_inputs

PLACES, CLASSES, BINS = 2100, 15, 8
NONE = [-1.0] * 5


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What a file of the example defines."""
    folder = copy_example("object-detection", tmp_path_factory.mktemp("own") / "object-detection")
    return lambda spec: load_callable(f"{folder}/{spec}", "example")


def answers(*found: tuple[int, float, list[float]]) -> tuple[Tensor, Tensor]:
    """Outputs for one image: of the first places a class, its probability and a box; of all others nothing."""
    boxes, scores = torch.zeros(1, 4, PLACES), torch.zeros(1, CLASSES, PLACES)
    for place, (label, probability, box) in enumerate(found):
        boxes[0, :, place], scores[0, label, place] = torch.tensor(box), probability
    return boxes, scores


def test_the_metric_is_the_mean_over_overlaps_and_classes(part: Callable[[str], Any]) -> None:
    whole, half = [10.0, 10, 110, 110], [200.0, 200, 300, 300]
    near = [200.0, 200, 300, 272]  # 0.72 of ``half``: right at 0.5 to 0.7, five of ten
    targets = torch.tensor([[[3, *whole], [3, *half], [7, *whole], NONE]])
    metric = started(read_metric(part("judge.py:MeanAveragePrecision")))
    twice = (3, 0.8, [11.0, 11, 111, 111])  # what is found again is suppressed, and not counted as wrong
    metric.update(answers((3, 0.9, whole), twice, (3, 0.7, near)), targets)
    first = (5 * 1 + 5 * 51 / 101) / 10  # with one of two found, 51 of COCO's 101 recalls are reached
    assert metric.compute() == pytest.approx(100 * (first + 0) / 2, abs=1e-3)
    metric.reset()
    metric.update(answers((3, 0.9, whole), (3, 0.8, half), (7, 0.7, whole), (5, 0.005, half)), targets)
    assert metric.compute() == pytest.approx(100)


def test_of_boxes_of_one_class_that_overlap_the_likeliest_stays(part: Callable[[str], Any]) -> None:
    box, moved, away = [10.0, 10, 50, 50], [12.0, 10, 52, 50], [30.0, 10, 70, 50]
    boxes, scores = answers((2, 0.5, box), (2, 0.9, moved), (4, 0.4, box), (2, 0.3, away))
    stay, likely, labels = part("judge.py:suppressed")(boxes[0], scores[0])
    assert likely.tolist() == pytest.approx([0.9, 0.4, 0.3]) and labels.tolist() == [2, 4, 2]
    assert stay.tolist() == [moved, box, away]


def test_the_overlap_is_less_by_distance_and_by_shape(part: Callable[[str], Any]) -> None:
    overlap = part("loss.py:complete_overlap")
    square = torch.tensor([0.0, 0, 10, 10])
    assert float(overlap(square, square)) == pytest.approx(1, abs=1e-6)
    beside = torch.tensor([5.0, 0, 15, 10])  # a third is shared; centres 5 apart in a box of 15 x 10
    assert float(overlap(square, beside)) == pytest.approx(1 / 3 - 25 / 325, abs=1e-6)
    wide = torch.tensor([-5.0, 0, 15, 10])  # a half, one centre, and sides of 2 to 1
    angle = 4 / torch.pi**2 * (torch.atan(torch.tensor(2.0)) - torch.pi / 4) ** 2
    assert float(overlap(square, wide)) == pytest.approx(float(0.5 - angle**2 / (0.5 + angle)), abs=1e-6)


def test_the_loss_falls_towards_what_is_wanted_and_sees_no_padding(part: Callable[[str], Any]) -> None:
    loss, net = part("loss.py:loss"), part("net.py:make")().eval()
    target = [3.0, 40, 48, 104, 120]
    boxes = torch.tensor(target[1:]).view(1, 4, 1).repeat(1, 1, PLACES)
    scores = torch.full((1, CLASSES, PLACES), 0.01)
    scores[:, 3] = 0.3

    def of(shift: float, sides: Tensor | None = None, rows: tuple[list[float], ...] = (target,)) -> float:
        return float(loss((boxes + shift, scores), torch.tensor([rows]), sides))

    assert of(0) < of(3) < of(9)
    assert of(3) == pytest.approx(of(3, rows=(target, NONE, NONE)))
    assert float(loss((boxes, scores), torch.tensor([[NONE]]))) > 0  # nothing is there: all that is answered is wrong
    reach = 3.25  # strides, of every side: 0.75 of bin 3 and 0.25 of bin 4 are right
    likely = torch.tensor([1e-4] * 3 + [0.75, 0.25] + [1e-4] * 3).log()
    sides = likely.view(1, 1, BINS, 1).expand(1, 4, BINS, PLACES).reshape(1, 4 * BINS, PLACES)
    left_top = net.points - reach * net.strides
    assert torch.allclose(net.boxes(sides)[0, :2], left_top, atol=0.05)
    place = 1600 + 20 * 10 + 10  # of stride 16
    x, y = net.points[:, place].tolist()
    there = [3.0, x - 16 * reach, y - 16 * reach, x + 16 * reach, y + 16 * reach]
    decoded = (net.boxes(sides), scores)
    right, wrong = (float(loss(decoded, torch.tensor([[there]]), s)) for s in (sides, sides.roll(1, 1)))
    assert right < wrong


FEW = """
from data import kept, scenes

def samples():
    return scenes(24, 0, *kept("train")), scenes(24, 1, *kept("test"))
"""


def test_with_the_weights_that_it_ships_it_finds_what_is_there(tmp_path: Path) -> None:
    folder = copy_example("object-detection", tmp_path / "object-detection")
    (folder / "few.py").write_text(FEW)
    parts = ("net.py:make", "few.py:samples", "judge.py:MeanAveragePrecision", "loss.py:loss")
    model, data, metric, loss = (f"{folder}/{part}" for part in parts)
    inputs = read_inputs(model, data, folder / "net.safetensors", metric, 0, loss=loss)
    score = inputs.task.score(inputs.run, inputs.data.test, inputs.run)
    assert score > 50, score
    x, y = next(iter(inputs.data.calibration))
    outputs = [output.detach() for output in inputs.run(x)]
    noise = torch.Generator().manual_seed(0)
    worse = [outputs[0] + 4 * torch.randn(outputs[0].shape, generator=noise), outputs[1]]
    task = inputs.task
    assert task.loss is not None and float(task.loss(worse, y)) > 1.1 * float(task.loss(outputs, y))
    assert task.fidelity_loss(outputs, outputs, y) == 0 < task.fidelity_loss(worse, outputs, y)
