"""What a user gives, read and settled once: the model, its data, by what it is judged, and whether that makes sense."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError, DataError, EdgeSdkWarning, ModelError, UsageError
from edgesdk.core.graph import Shapes
from edgesdk.core.graph import Tensor as Input
from edgesdk.core.report import Tell
from edgesdk.core.serialize import is_table
from edgesdk.data.data import Data, check, load_data
from edgesdk.data.declared import is_image, is_made_by
from edgesdk.data.judging import settled
from edgesdk.data.losses import Loss, read_loss
from edgesdk.data.metrics import TOP_1, Metric, is_named, read_metric
from edgesdk.data.preprocessing import Preprocessing, read_preprocessing
from edgesdk.data.sanity import causes, judged_dense
from edgesdk.data.sources import RATE
from edgesdk.data.task import Task
from edgesdk.example.data import example_data, example_model
from edgesdk.network.card import Card, card_of
from edgesdk.network.copying import copied
from edgesdk.network.load import input_names, is_program, is_trained, load_weighted
from edgesdk.network.network import Batch, answer, tensors
from edgesdk.network.source import source_of

FAR = 0.9  # of the score that is asked for: a model below it is likely not read as it was trained


@dataclass(frozen=True)
class Inputs:
    """A model in evaluation mode, its data, and how it is judged; ``example`` where it is the built-in one.

    ``dense_score`` is what it scores on so many of its test samples as it is, once it was checked.
    """

    model: nn.Module
    data: Data
    task: Task
    example: bool
    trained: bool = True  # as far as is known: weights were given or loaded, or a module
    notes: tuple[str, ...] = ()  # on what was done to read them
    dense_score: float | None = None
    judged_samples: int = 0

    def checked(self, budget: Budget | None, force: bool, tell: Tell) -> Inputs:
        """The same, once the dense model was judged: its score is told, and what is wrong with it raised, or with
        ``force`` noted. Raises ``BudgetError`` where it does not reach the score that the budget asks for."""
        doubts = check(self.data, self.model, self.task.classifies, self.task.output, self.task.target)
        tell("judging the dense model", None)
        verdict = judged_dense(self.model, self.data, self.task, self.trained)
        notes = [*doubts, *verdict.notes]
        if verdict.error is not None:
            if not force:
                self.warned()  # of what was taken of a checkpoint, which may be the cause
                raise verdict.error
            notes.append(f"forced: {verdict.error.fact}")
        if budget is not None and budget.accuracy is not None and self.task.labelled:
            self._reaches(budget, budget.accuracy)
        if verdict.score is not None:
            said = f"{self.task.shown(verdict.score)}, {self.task.name} of {verdict.samples} samples"
            tell(f"the dense model scores {said}", None)
        judged = replace(self, dense_score=verdict.score, judged_samples=verdict.samples)
        return replace(judged, notes=(*notes, *self.notes)).warned()

    def _reaches(self, budget: Budget, least: float) -> None:
        """Raise ``BudgetError`` where the model misses the ``least`` score, far off with what may be the cause."""
        score = self.task.score(self.run, self.data.test, self.run)
        try:
            budget.given(score)
        except BudgetError as error:
            if score >= FAR * least:
                raise
            raise error.advising(f"{causes(self.trained, self.task)}, or ask for less") from None

    def run(self, x: Batch) -> Any:
        """What the user's own module answers to a batch."""
        return answer(self.model, x)

    def warned(self) -> Inputs:
        """The same, once what a user should know of the inputs was warned of; readers of a report find it there."""
        for note in self.notes:
            warnings.warn(note, EdgeSdkWarning, stacklevel=3)
        return replace(self, data=replace(self.data, notes=(*self.notes, *self.data.notes)), notes=())


def named(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as several."""
    return (names,) if isinstance(names, str) else tuple(names)


def _read_file(path: str, weights: str | Path | None, force: bool, x: Batch) -> tuple[nn.Module, tuple[str, ...]]:
    """The module in a file, its free axes as long as those of the samples ``x`` are."""
    try:
        return load_weighted(path, weights, force, described(x))
    except UsageError as error:  # what was asked for are the data themselves
        raise DataError(f"the data does not fit {path}: {error.fact}", "give x in the shape that it takes") from None


def _compared(model: nn.Module, x: Batch, force: bool) -> tuple[str, ...]:
    """How far a ``model`` that was made of a quantized file is from that on the samples ``x``."""
    source = source_of(model)
    if source is None or source.floats is None:
        return ()
    from edgesdk.network.onnx_module.distance import judge_float  # a runtime, which other models do without

    try:
        return judge_float(model, x)
    except ModelError as error:
        if not force:
            raise
        return (f"forced: {error.fact}",)


def _pixels(card: Card | None) -> Mapping[str, Any]:
    """What a model itself says of pixels. Raises ``ModelError`` where that is nothing that can be done to them."""
    try:
        return read_preprocessing(card.pixels if card is not None else None)
    except UsageError as error:
        raise ModelError(
            f"the model's own preprocessing does not fit: {error.fact}", "mend its configuration"
        ) from None


def _with_card(samples: Data, card: Card) -> Data:
    """``samples`` with what the model's ``card`` says of its classes, and of pixels that came prepared and can be what
    it makes of them."""
    pixels = {name: value for name, value in _pixels(card).items() if name != RATE}
    notes: tuple[str, ...] = ()
    if pixels and samples.preprocessing is None and is_image(samples.example):
        own = Preprocessing(**pixels)
        if is_made_by(own, samples.example):
            samples = replace(samples, preprocessing=own, prepared=True)
        else:
            notes = (
                f"x is not what the model's own preprocessing makes of pixels ({own.flags}), and is taken as it is",
            )
    return replace(samples, classes=samples.classes or card.classes, notes=(*samples.notes, *notes))


def described(x: Batch) -> tuple[Input, ...]:
    """The inputs of a batch without it, by name where it has names."""
    names: list[str] = list(x) if is_table(x) else [""] * len(tensors(x))
    return tuple(
        Input(name, tuple(t.shape[1:]), str(t.dtype).removeprefix("torch."))
        for name, t in zip(names, tensors(x), strict=True)
    )


def check_shapes(x: Batch, shapes: Shapes) -> None:
    """Raise ``UsageError`` for shapes that were asked for and are not those of the samples ``x``."""
    if shapes is None:
        return
    if isinstance(shapes, Mapping):
        wanted = list(shapes.items())
    else:
        parts = [part for part in shapes if isinstance(part, Input)]
        single = tuple(size for size in shapes if isinstance(size, int))
        wanted = [("", single)] if single else [(part.name, part.shape) for part in parts]
    own = {part.name or str(place): part.shape for place, part in enumerate(described(x))}
    for place, (name, shape) in enumerate(wanted):
        actual = own.get(name, list(own.values())[place] if place < len(own) else ())
        if actual not in (tuple(shape), tuple(shape)[1:]):
            told = "x".join(map(str, shape))
            fact = f"--shape says {told} of {name or 'the input'}, and the data are {'x'.join(map(str, actual))}"
            raise UsageError(fact, "leave --shape out, for the data say it; or give other data")


def read_inputs(
    model: nn.Module | str | None, data: Any, weights: str | Path | None, metric: str | Metric, seed: int, *,
    output: str | int | None = None, force: bool = False,
    preprocess: Preprocessing | Mapping[str, Any] | str | Path | None = None, shapes: Shapes = None,
    loss: str | Loss | None = None, pictures: bool = True,
) -> Inputs:  # fmt: skip
    """The model and its data, loaded, and how it is judged, with notes on what was done to read them.

    ``output`` is the name or place of the one that is judged of several, ``loss`` the user's own to learn by,
    ``preprocess`` how the model takes pixels, where the data do not say, ``shapes`` the inputs' own where the caller
    knows them, which the data must have; ``pictures`` whether a report may show test samples. Free axes of a file are
    as long as the data's. With ``force`` weights may be missing. Raises ``ModelError``, ``DataError`` and
    ``UsageError`` for what is wrong with them.
    """
    wanted, metric, own = read_preprocessing(preprocess), read_metric(metric), read_loss(loss)
    if model is None and data is None and wanted:
        raise UsageError(f"a preprocessing ({', '.join(wanted)}) without data", "give --data: the example has its own")
    if model is None:
        loaded = example_model()
        samples = example_data(seed) if data is None else load_data(data, seed=seed, preprocess=wanted)
        notes = ()
    else:
        mine = copied(model) if isinstance(model, nn.Module) else model  # the user's module stays as it is
        read = None if is_program(mine) else load_weighted(mine, weights, force)
        card = None if read is None else card_of(read[0])
        named = input_names(str(mine) if read is None else read[0])
        samples = load_data(
            data, seed=seed, classifies=is_named(metric, TOP_1), preprocess=wanted, usual=_pixels(card), inputs=named
        )
        samples = samples if card is None else _with_card(samples, card)
        check_shapes(samples.example, shapes)
        loaded, notes = _read_file(str(mine), weights, force, samples.example) if read is None else read
        notes = (*notes, *_compared(loaded, samples.example, force))
    samples, task = settled(loaded, samples, metric, output, own)
    samples = replace(samples, pictures=pictures)
    return Inputs(loaded, samples, task, model is None, is_trained(notes), notes)
