"""What a classifier answers otherwise than the dense model: counted, told by sample, drawn where inputs are images."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edgesdk.core.answers import FLIPS, LISTED, AnswerChanges, Flip
from edgesdk.data.answers import Answers
from edgesdk.data.data import Data
from edgesdk.data.pictures import SIDE, draw_samples
from edgesdk.data.preprocessing import Preprocessing
from edgesdk.data.task import Task

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])
DENSE = torch.tensor([0, 1, 1, 1, 2, 0, 0, 0])
DEPLOYED = torch.tensor([1, 0, 1, 1, 2, 1, 0, 0])


def one_hot(answers: Tensor, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(answers, classes).float()


def compare(task: Task, dense: Any, deployed: Any, target: Any, batch: int = 3) -> AnswerChanges | None:
    """Both seen in batches, the last of them smaller."""
    sides = []
    for outputs in (dense, deployed):
        seen = Answers(task)
        for first in range(0, len(target), batch):
            seen.see(outputs[first : first + batch], target[first : first + batch])
        sides.append(seen)
    return sides[1].compare(sides[0], lambda places: {place: f"picture {place}" for place in places})


class Own:
    """A metric of a user's own."""

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> float:
        return 0.0


TASKS: dict[str, tuple[Task, Any]] = {
    "classes": (Task(), LABELS), "one-hot": (Task(), one_hot(LABELS)), "a column": (Task(), LABELS[:, None]),
    "a metric of one's own": (Task(Own(), output=None), LABELS), "a function": (Task(lambda o, y: 0.0), LABELS),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_compared_sample_by_sample(name: str) -> None:
    task, target = TASKS[name]
    changes = compare(task, one_hot(DENSE), one_hot(DEPLOYED), target)
    assert changes is not None
    assert (changes.answers, changes.lost, changes.gained, changes.otherwise) == (8, 1, 1, 1)
    assert [(c.label, c.answer, c.dense, c.deployed) for c in changes.confusions] == [(2, 0, 2, 1), (2, 1, 0, 1)]
    assert changes.classes == () and changes.classes_changed == 0  # one lost, and one gained, of class 0
    assert changes.flips == (
        Flip(0, 0, 0, 1, "picture 0"), Flip(1, 0, 1, 0, "picture 1"), Flip(5, 2, 0, 1, "picture 5"),
    )  # fmt: skip


def test_what_is_not_judged_does_not_count_and_places_stay() -> None:
    changes = compare(Task(), one_hot(DENSE), one_hot(DEPLOYED), torch.tensor([-100, 0, 1, 1, -100, 2, 2, 0]))
    assert changes is not None and changes.answers == 6 and changes.lost == 0
    assert [flip.sample for flip in changes.flips] == [1, 5]


def test_yes_and_no_are_two_classes() -> None:
    task = Task("binary-accuracy")
    dense, deployed = torch.tensor([[1.0], [-1.0], [2.0]]), torch.tensor([[1.0], [1.0], [-2.0]])
    changes = compare(task, dense, deployed, torch.tensor([1.0, 1.0, 1.0]))
    assert changes is not None and (changes.lost, changes.gained) == (1, 1)
    assert [(flip.sample, flip.label) for flip in changes.flips] == [(1, 1), (2, 1)]


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_an_image_cut_into_classes_has_confusions_alone(last: bool) -> None:
    shape = (2, 2, 2)
    maps = [one_hot(answers.reshape(shape)) for answers in (DENSE, DEPLOYED)]
    dense, deployed = maps if last else [each.movedim(-1, 1) for each in maps]
    changes = compare(Task(axis=-1 if last else 1), dense, deployed, LABELS.reshape(shape))
    assert changes is not None and (changes.answers, changes.lost, changes.flips) == (8, None, ())
    assert [(c.label, c.answer) for c in changes.confusions] == [(2, 0), (2, 1)]


@pytest.mark.parametrize("task, outputs, target", [
    (Task("mse"), torch.randn(6, 3), torch.randn(6, 3)),
    (Task("multilabel-f1"), torch.randn(6, 3), torch.ones(6, 3)),
    (Task(Own(), output=None), torch.randn(6, 3), torch.randn(6, 3)),  # a regression, by a metric of one's own
    (Task(Own(), output=None), torch.randn(6, 2), torch.arange(6) * 10),  # a mean and a width, of years
    (Task(Own(), output=None), torch.randn(6, 1), torch.arange(6)),
    (Task(Own(), output=None), torch.randn(6, 3), [None] * 6),
], ids=["regression", "several labels", "own", "years", "a figure", "no tensor"])  # fmt: skip
def test_what_is_no_classifier_has_none(task: Task, outputs: Tensor, target: Any) -> None:
    assert compare(task, outputs, -outputs, target) is None


def test_of_many_the_most_changed_are_listed_and_flips_of_each_kind() -> None:
    dense = {(label, label): 100 for label in range(300)}
    deployed = {(label, label): 100 - label % 60 for label in range(300)} | {
        (0, answer): answer for answer in range(1, 70)
    }
    flips = [Flip(n, 0, 0, 1) for n in range(50)] + [Flip(60, 0, 1, 0), Flip(70, 0, 1, 2)]
    changes = AnswerChanges.of(dense, deployed, flips)
    assert (changes.classes_changed, len(changes.classes), changes.confusions_changed) == (295, LISTED, 69)
    drops = [each.dense - each.deployed for each in changes.classes]
    assert drops == sorted(drops, reverse=True) and drops[0] == 59
    assert changes.confusions[0].answer == 69
    assert len(changes.flips) == FLIPS and {60, 70} < {flip.sample for flip in changes.flips}
    assert (changes.lost, changes.gained, changes.otherwise) == (50, 1, 1)


def data(x: Any, preprocessing: Preprocessing | None = None) -> Data:
    batches = [(x, None)] if isinstance(x, (Tensor, dict)) else [(part, None) for part in x]
    return Data(None, batches, batches, batches, False, preprocessing, "data")


def pixels(picture: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    assert image.format == "PNG"
    return np.asarray(image)


BYTES = torch.arange(5 * 3 * 6 * 8).reshape(5, 3, 6, 8).mul(7).remainder(256).byte()
PREPARED = {
    "scaled": Preprocessing(), "normalized": Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)),
    "from -1": Preprocessing((-1.0, 1.0)), "BGR": Preprocessing(channel_order="BGR"),
    "channels last": Preprocessing((0.0, 255.0), layout="NHWC"), "bytes": Preprocessing(dtype="uint8"),
}  # fmt: skip


@pytest.mark.parametrize("name", PREPARED)
def test_pictures_are_the_pixels_before_they_were_prepared(name: str) -> None:
    done = PREPARED[name]
    x = done(BYTES)
    drawn = draw_samples(data([x[:2], x[2:]], done), [4, 1])
    assert sorted(drawn) == [1, 4]
    for place, picture in drawn.items():
        assert np.array_equal(pixels(picture), BYTES[place].permute(1, 2, 0).numpy())


def test_figures_that_nobody_says_to_be_pixels_are_stretched() -> None:
    x = torch.linspace(-3, 5, 2 * 36).reshape(2, 1, 6, 6)
    for each in (x, x.permute(0, 2, 3, 1)):
        shown = pixels(draw_samples(data(each), [1])[1])
        assert shown.shape == (6, 6) and (shown.min(), shown.max()) == (0, 255)
    assert pixels(draw_samples(data(torch.ones(1, 3, 6, 6)), [0])[0]).max() == 0  # all the same
    assert np.array_equal(pixels(draw_samples(data(BYTES), [0])[0]), BYTES[0].permute(1, 2, 0).numpy())


def test_of_several_inputs_the_image_is_drawn_and_a_large_one_as_a_thumbnail() -> None:
    x = {"length": torch.ones(2, 7), "image": torch.rand(2, 3, 300, 150)}
    shown = pixels(draw_samples(data(x), [1])[1])
    assert shown.shape == (SIDE, SIDE // 2, 3)


@pytest.mark.parametrize("shape, done", [
    ((2, 9), None), ((2, 3, 16), None), ((2, 8, 6, 6), None), ((2, 3, 2, 400), None),
    ((2, 1, 6, 6), PREPARED["normalized"]),
], ids=["features", "a wave", "channels of features", "a strip", "another's mean"])  # fmt: skip
def test_samples_that_are_no_images_have_no_picture(shape: tuple[int, ...], done: Preprocessing | None) -> None:
    assert draw_samples(data(torch.rand(*shape), done), [0, 1]) == {}


def test_what_may_not_be_shown_has_no_picture() -> None:
    images = data(BYTES)
    assert draw_samples(images, [0, 1]) and draw_samples(replace(images, pictures=False), [0, 1]) == {}


def test_pictures_of_noise_fit_a_page() -> None:
    x = torch.rand(FLIPS, 3, 224, 224)
    drawn = draw_samples(replace(data(x), preprocessing=Preprocessing()), range(FLIPS))
    assert sum(map(len, drawn.values())) < 430_000
