"""A dense model that makes no sense on its data is refused, for the right reason; one that does, never."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError, DataError, EdgeSdkError, EdgeSdkWarning, ModelError
from edgesdk.data import sanity
from edgesdk.data.data import Data
from edgesdk.data.sanity import judged_dense
from edgesdk.data.task import Task
from edgesdk.data.work import CountingWork
from edgesdk.example.data import example_model
from edgesdk.workflows.inputs import Inputs, read_inputs

SAMPLE = Path(__file__).parents[2] / "sdk" / "edgesdk" / "example" / "sample.npz"


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    """Real images: 400 to train with and 150 to judge by, of ten classes."""
    with np.load(SAMPLE) as file:
        arrays = {name: file[name] for name in file.files}
    return {name: value[: {"x": 400, "y": 400}.get(name, 150)] for name, value in arrays.items()}


class Prepares(nn.Module):
    """The trained example as people write models: it takes pixels of 0 to 255, and prepares them itself."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.net, self.mean, self.std = example_model(), mean, std

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x.float() / 255 - self.mean) / self.std)


def given(model: Any, sample: dict[str, np.ndarray], changes: dict[str, Any] | None = None, **options: Any) -> Inputs:
    arrays = {**sample, **(changes or {})}
    path = options.pop("folder") / "data.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return read_inputs(model, path, None, options.pop("metric", "top-1"), 0, **options)


def refused(inputs: Inputs, kind: type[EdgeSdkError], *parts: str) -> None:
    with pytest.raises(kind) as raised:
        inputs.checked(None, False, lambda stage, share: None)
    message = str(raised.value)
    assert "\n" not in message and all(part in message for part in parts), message


def passes(inputs: Inputs, **options: Any) -> list[str]:
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgeSdkWarning)
        inputs.checked(options.get("budget"), options.get("force", False), lambda stage, share: told.append(stage))
    return told


def test_a_sound_model_passes_and_its_score_is_told_first(sample, tmp_path: Path) -> None:
    told = passes(given(example_model(), sample, folder=tmp_path))
    assert told[0] == "judging the dense model"
    assert re.fullmatch(r"the dense model scores (8[5-9]|9\d)\.?\d* %, top-1 accuracy of 150 samples", told[1])


@pytest.mark.parametrize("normalized", ["by mean and std", "to 0..1"])
def test_pixels_that_are_normalized_twice_are_refused_with_the_remedy(sample, tmp_path: Path, normalized: str) -> None:
    model = Prepares(float(sample["mean"][0]), float(sample["std"][0]))
    changes = {} if normalized == "by mean and std" else {"mean": None, "std": None}
    refused(
        given(model, sample, changes, folder=tmp_path), DataError,
        "the dense model scores", "with pixels as 0 to 255: give --input-range 0,255, or --force",
    )  # fmt: skip
    assert "scores 9" in passes(given(model, sample, changes, folder=tmp_path, preprocess={"input_range": "0,255"}))[1]


def test_pixels_that_are_not_normalized_at_all_are_refused(sample, tmp_path: Path) -> None:
    x, x_test = (sample[name].astype(np.float32) for name in ("x", "x_test"))
    changes = {"x": x, "x_test": x_test, "mean": None, "std": None}
    refused(given(example_model(), sample, changes, folder=tmp_path), DataError, "with pixels as", "prepare x so")


def test_channels_in_another_order_are_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randint(0, 256, (400, 3, 8, 8), dtype=torch.uint8), torch.arange(400) % 3
    x[torch.arange(400), y] //= 8

    class Darkest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x.mean((2, 3)).flip(1) * 9

    arrays = {"x": x.numpy(), "y": y.numpy()}
    refused(given(Darkest(), arrays, folder=tmp_path), DataError, "blue, green, red", "--channel-order BGR")
    assert "scores 100 %" in passes(given(Darkest(), arrays, folder=tmp_path, preprocess={"channel_order": "BGR"}))[1]


def test_labels_in_another_order_are_refused(sample, tmp_path: Path) -> None:
    changes = {name: (sample[name] + 1) % 10 for name in ("y", "y_test")}
    refused(
        given(example_model(), sample, changes, folder=tmp_path), DataError,
        "with its classes in another order: what is labelled 0 it calls 9", "number the labels as the model does",
    )  # fmt: skip


def test_labels_without_any_order_are_refused(sample, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    changes = {name: random.permutation(sample[name]) for name in ("y", "y_test")}
    refused(
        given(example_model(), sample, changes, folder=tmp_path), DataError,
        "no better than answers that know nothing of the sample", "the weights are this model's", "--force",
    )  # fmt: skip


def test_missing_weights_are_the_first_cause(sample, tmp_path: Path) -> None:
    named = "edgesdk.example.resnet8:resnet8"
    refused(given(named, sample, folder=tmp_path), ModelError, "the dense model", "give --weights, for none were given")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda net: net.register_buffer("zero", torch.zeros(())), "gives the same answer to each of"),
        (lambda net: net.register_buffer("zero", torch.tensor(float("inf"))), "answers"),
    ],
)
def test_broken_answers_are_refused_whatever_the_labels(sample, tmp_path: Path, spoil: Any, says: str) -> None:
    class Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = example_model()
            spoil(self)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * self.zero + 1

    for changes in ({}, {"y": None, "y_test": None, "x_test": None}):
        refused(given(Spoilt(), sample, changes, folder=tmp_path), ModelError, says)


def test_force_goes_on_and_notes_it(sample, tmp_path: Path) -> None:
    changes = {name: (sample[name] + 1) % 10 for name in ("y", "y_test")}
    inputs = given(example_model(), sample, changes, folder=tmp_path)
    with pytest.warns(EdgeSdkWarning, match="forced: the dense model scores"):
        forced = inputs.checked(None, True, lambda stage, share: None)
    assert forced.data.notes[0].startswith("forced: the dense model scores")


@pytest.mark.parametrize(("samples", "looks"), [(40, False), (160, True)])
def test_other_readings_are_looked_for_only_where_they_would_be_told(samples: int, looks: bool) -> None:
    """A model at chance: of few samples no reading is held against it, so none is tried, which takes a pass each."""
    asked: list[int] = []

    class Chance(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return x[:, :, :2, :2].sum(1).flatten(1)

    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(samples, 3, 8, 8, generator=generator), torch.arange(samples) % 4
    batches = [(x, y)]
    data = Data(None, batches, batches, batches, labelled=True, preprocessing=None, description="noise")
    judged_dense(Chance(), data, Task("top-1"))
    plain = 1 + 1  # of two samples to see what it takes, then of all, for what is wrong with the answers and the score
    assert (len(asked) > plain) == looks, asked


class Queried(nn.Module):
    """Hands a layer a view of a parameter, as attention with learnt queries does."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.norm = nn.Parameter(torch.randn(1, 4)), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3 * self.norm(self.query.expand(len(x), -1))


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Flatten(), nn.Linear(192, 4)),
        (nn.Conv2d(3, 4, 8), nn.Flatten()),
        (nn.Conv2d(3, 4, 8, 8), nn.Flatten()),
        (nn.Flatten(), nn.Linear(192, 4), Queried()),
    ],
)
def test_a_large_model_is_judged_by_fewer_samples(
    layers: tuple[nn.Module, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*layers).eval()  # of 768 multiplications
    x = torch.randn(400, 3, 8, 8)
    batches = list(zip(x.split(20), model(x).argmax(1).split(20), strict=True))
    data = Data(None, batches, batches, batches, labelled=True, preprocessing=None, description="noise")
    seen = []
    for work in (sanity.WORK, 200 * 768, 1):
        monkeypatch.setattr(sanity, "WORK", work)
        seen.append(judged_dense(model, data, Task("top-1")).samples)
    assert seen == [400, 200, sanity.LEAST]


def test_few_samples_are_not_held_against_a_model(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((90, 6)).astype(np.float32)
    inputs = given(nn.Linear(6, 3), {"x": x, "y": np.arange(90) % 3}, folder=tmp_path)
    with pytest.warns(EdgeSdkWarning, match="on 90 samples, no better than .*too little to hold it against"):
        inputs.checked(None, False, lambda stage, share: None)


def knowing(share: float, y: Tensor, classes: int) -> Tensor:
    """Answers that are right for a ``share`` of the samples, and else drawn as the labels are."""
    knows = torch.rand(len(y)) < share
    answer = torch.where(knows, y, y[torch.randperm(len(y))])
    return nn.functional.one_hot(answer, classes).float() + 1e-3 * torch.rand(len(y), classes)


class Recorded(nn.Module):
    """Gives recorded answers: x is the place of each."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, x: Tensor) -> Tensor:
        return self.answers[x[:, 0].long()]


def verdict(answers: Tensor, y: Tensor, metric: str = "top-1") -> EdgeSdkError | None:
    x = torch.arange(float(len(y)))[:, None]
    inputs = read_inputs(Recorded(answers), (x, y), None, metric, 0)
    return judged_dense(inputs.model, inputs.data, inputs.task).error


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.95, 0.05), (0.1,) * 10])
def test_chance_is_told_from_knowledge_however_the_labels_are_shared(shares: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    wrongly = {"at chance": 0, "knowing": 0}
    for _ in range(10):
        y = torch.multinomial(torch.tensor(shares), 2000, replacement=True)
        wrongly["at chance"] += verdict(knowing(0.0, y, len(shares)), y) is None
        wrongly["knowing"] += verdict(knowing(0.4, y, len(shares)), y) is not None
    few = min(shares) < 0.1  # 20 of 400 samples are too few to be sure
    assert wrongly["knowing"] == 0 and (few or wrongly["at chance"] <= 1)


def test_the_most_frequent_class_is_no_knowledge() -> None:
    torch.manual_seed(0)
    y = (torch.rand(2000) < 0.05).long()
    answers = torch.tensor([1.0, 0.0]) + 0.1 * torch.rand(2000, 2)
    error = verdict(answers, y)
    assert error is not None and "no better than answers that know nothing" in str(error)


def test_regression_and_several_labels_are_held_against_what_knows_nothing() -> None:
    torch.manual_seed(0)
    y = torch.randn(1000, 2)
    assert verdict(y + 0.5 * torch.randn(1000, 2), y, "mse") is None
    assert "the mean of the targets" in str(verdict(torch.randn(1000, 2), y, "mse"))
    labels = (torch.rand(1000, 5) < 0.2).float()
    assert verdict(labels * 4 - 2 + torch.randn(1000, 5), labels, "multilabel-f1") is None
    assert "know nothing" in str(verdict(torch.randn(1000, 5), labels, "multilabel-f1"))


def test_an_accuracy_that_the_model_misses_by_far_names_causes(sample, tmp_path: Path) -> None:
    inputs = given(example_model(), sample, folder=tmp_path)
    with pytest.raises(BudgetError, match=r"itself scores .* less than the 99\.9 that are wanted: train it further"):
        passes(inputs, budget=Budget(accuracy=99.9))
    halved = {name: np.where(np.arange(len(sample[name])) % 3, sample[name], 0) for name in ("y", "y_test")}
    inputs = given(example_model(), sample, halved, folder=tmp_path)
    with pytest.raises(BudgetError, match="less than the 95 that are wanted: check that the weights are this model's"):
        passes(inputs, budget=Budget(accuracy=95))
    assert passes(given(example_model(), sample, folder=tmp_path), budget=Budget(accuracy=60))


@pytest.mark.parametrize("bad", [1, 3, 30, 200])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_few_answers_that_are_no_numbers_are_the_samples_fault(bad: int, value: float) -> None:
    y = torch.arange(400) % 4
    answers = knowing(0.9, y, 4)
    answers[torch.arange(bad) * (400 // bad)] = value
    x = torch.arange(400.0)[:, None]
    sound, test = torch.tensor([1, 3]), list(zip(x.split(50), y.split(50), strict=True))
    source = type("Parts", (), {"train": None, "calibration": [(x[sound], y[sound])], "test": test})
    inputs = read_inputs(Recorded(answers), source, None, "top-1", 0)
    error = judged_dense(inputs.model, inputs.data, inputs.task).error
    assert error is not None and f"to {bad} of 400 samples" in error.fact and error.figures["count"] == bad
    assert isinstance(error, DataError) == (bad <= 20)
    assert ("look at these samples" in error.remedy) == (bad <= 20)


def test_counting_what_a_model_takes_leaves_what_it_compiles_alone() -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x @ x.mT,))

    model = Choosing().eval()
    with torch.no_grad(), CountingWork() as counting:
        model(torch.rand(2, 3, 4))
    assert counting.multiplications == 2 * 3 * 4 * 3
    with torch.no_grad():
        assert [len(model(torch.rand(count, 3, 4))) for count in (2, 5)] == [2, 5]
