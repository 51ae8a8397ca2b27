"""The data that a model is priced, recovered and judged with, split so that no part flatters another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError, UsageError
from edgesdk.core.wording import said
from edgesdk.data.batches import Given, Shuffled, check_classes, checked_labels, classes_of, stratified, taken
from edgesdk.data.datasets import is_dataset, loader, split
from edgesdk.data.declared import read_classes, read_declared
from edgesdk.data.outliers import find_limits, keep_usual, note_judged, note_left_out
from edgesdk.data.preprocessing import Preprocessing
from edgesdk.data.sources import RATE, Samples, dtype_name, from_arrays, from_folder, from_npz
from edgesdk.data.targets import check_range, class_axis, class_numbers, is_row
from edgesdk.data.task import output_tensors
from edgesdk.network.blame import blamed
from edgesdk.network.load import load_callable
from edgesdk.network.network import Batch, answer, rebatch, tensors
from edgesdk.network.returned import make_known

CALIBRATION = 256  # samples for ranges, importance and sensitivity
TEST_SHARE, HOLDOUT_SHARE = 0.2, 0.1
HOLDOUT_MOST, HOLDOUT_LEAST = 1000, 32  # fewer than these tell no finalists apart
READ_MOST = 12_000  # samples of a calibration source that are read at all
FORMS = "give an .npz file, a folder with a sub-folder of images per class, or file.py:callable"
Batches = list[tuple[Batch, Any]]


@dataclass(frozen=True)
class Data:
    """Batches of (x, y), each part for its own use; y is ``None`` where there are no labels.

    ``train`` can be iterated again and again, in a new order each time, and has a length in batches where that is
    known; ``None`` means no recovery. ``calibration``, about 256 samples, sets ranges, importance and sensitivity.
    ``holdout`` tells finalists apart: disjoint from ``train`` and ``test`` where there is enough data, else the
    calibration batches. ``test`` judges the result. ``preprocessing`` is what was done to pixels of uint8,
    ``sample_rate`` that of waves in Hz, ``classes`` are the names of the classes, where these are known. ``notes`` are
    for readers of a report.
    """

    train: Iterable[tuple[Batch, Any]] | None
    calibration: list[tuple[Batch, Any]]
    holdout: list[tuple[Batch, Any]]
    test: list[tuple[Batch, Any]]
    labelled: bool
    preprocessing: Preprocessing | None
    description: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    sample_rate: int | None = None
    prepared: bool = False  # by the user, so that pixels are prepared nowhere here
    pictures: bool = True  # whether a report may show test samples as thumbnails

    @property
    def example(self) -> Batch:
        """The x of the first calibration batch."""
        return self.calibration[0][0]

    @property
    def normalization(self) -> Mapping[str, Any] | None:
        """What was done to pixels as factors: ``{"scale": 1/255, "mean": [...], "std": [...]}``, one per channel."""
        return None if self.preprocessing is None else self.preprocessing.normalization


def load_data(
    spec: Any, *, batch_size: int = 64, seed: int = 0, classifies: bool = True,
    preprocess: Mapping[str, Any] | None = None, usual: Mapping[str, Any] | None = None, inputs: Sequence[str] = (),
) -> Data:  # fmt: skip
    """The data that ``spec`` names or is.

    ``spec`` is an ``.npz`` file with ``x`` and perhaps ``y``, ``x_test``, ``y_test``, ``mean``, ``std``, ``classes``,
    or with an array for each of the model's ``inputs`` by its name in the place of ``x``; a folder with a sub-folder of
    images per class; ``file.py:callable``, called without arguments; or, in Python, an object with ``calibration`` and
    perhaps ``train`` and ``test``, each iterables of batches (x, y) or a data set of pairs (x, y); a data set alone, or
    two, the second to judge by; or a tuple ``(x, y)`` of arrays. ``preprocess`` says how pixels are to be prepared, by
    the fields of :class:`Preprocessing`, ``usual`` how they are where neither that nor the data say it. The splits are
    the same for the same ``seed``, and stratified by label where the model ``classifies``. Raises ``DataError`` for
    data that is missing, malformed, empty or not finite, for labels that are no class numbers, and for a single class.
    """
    if isinstance(spec, Data):
        return spec
    wanted = dict(preprocess or {})
    rate = wanted.pop(RATE, None)
    usual = dict(usual or {})
    usual_rate = usual.pop(RATE, None)
    if isinstance(spec, (str, Path)):
        spec, origin = _named(str(spec), wanted, usual, inputs), str(spec)
    else:
        origin = "data"
    if isinstance(spec, tuple) and len(spec) == 2 and not any(map(is_dataset, spec)):
        spec = from_arrays(origin, *spec, wanted=wanted, usual=usual)
    if isinstance(spec, Data):
        return spec
    loaded = _split(spec, batch_size, seed, classifies) if isinstance(spec, Samples) else _own(
        spec, origin, batch_size, seed, classifies, wanted
    )  # fmt: skip
    return replace(loaded, sample_rate=rate or loaded.sample_rate or usual_rate)


def _own(
    spec: Any, origin: str, batch_size: int, seed: int, classifies: bool, wanted: Mapping[str, Any]
) -> Data:  # fmt: skip
    """Batches of the user's own, with what they say of themselves: ``preprocessing``, ``sample_rate``, ``classes``."""
    if wanted:
        fact = f"there is a preprocessing of pixels ({', '.join(wanted)}), and {origin} gives its own batches"
        raise UsageError(fact, "let it yield x as the model takes it and say in its attribute preprocessing what was "
                         "done to pixels, or give arrays of uint8 or a folder of images")  # fmt: skip
    source, notes = _parts(spec, batch_size, seed)
    own = _given(source, origin, classifies)
    done, rate = read_declared(spec, own.example)
    return replace(
        own, preprocessing=done, prepared=done is not None, sample_rate=rate, classes=read_classes(spec),
        notes=(*notes, *own.notes),
    )  # fmt: skip


def check(
    data: Data, model: nn.Module, classifies: bool, output: int | None = 0,
    target: Callable[[Any], Any] = lambda y: y,
) -> tuple[str, ...]:  # fmt: skip
    """Run ``model`` on two samples of ``data``, and compare the labels with the ``output`` that is judged, whose
    ``target`` is of those of a batch. Notes on what may be wrong with them.

    Raises ``DataError`` where x does not fit the model or a label is out of range, ``ModelError`` where the model
    itself fails, answers NaN, or does not answer with classes though it ``classifies``.
    """
    y = target(data.calibration[0][1]) if data.labelled else None
    classes = _classes(run_two(model, data.example), output, y) if classifies else None
    if not classifies:
        run_two(model, data.example)
    batches = [*data.calibration, *data.holdout, *data.test]
    if isinstance(data.train, Shuffled):
        batches.append((None, data.train.labels))
    elif data.train is not None:
        first = next(iter(data.train), None)
        if first is None:
            raise DataError("train is empty", "give at least one batch, or None for no recovery")
        if data.labelled and first[1] is None:
            raise DataError("train has no labels where the other parts have", "give it labels, or none at all")
        run_two(model, first[0])
        batches.append(first)
        if isinstance(data.train, Given) and isinstance(first[1], Tensor):
            data.train.classes = classes
    if classes is not None and data.labelled:
        for _, y in batches:
            check_range(target(y), classes)
    if classes is None or not data.labelled or not data.classes or len(data.classes) == classes:
        return ()
    shifted = "without a folder, or a name, for each the labels behind a missing one are too small"
    return (f"the data has {len(data.classes)} classes, and the model tells {classes} apart: {shifted}",)


def _named(spec: str, preprocess: Mapping[str, Any], usual: Mapping[str, Any], inputs: Sequence[str]) -> Any:
    """What a path or ``file.py:callable`` leads to: samples, or an object that is still to be read."""
    path = Path(os.path.expanduser(spec))
    try:
        if path.is_dir():
            return from_folder(path, preprocess, usual)
        if path.is_file() and path.suffix.lower() == ".npz":
            return from_npz(path, preprocess, usual, inputs)
        if path.is_file():
            raise DataError(f"{path} is not an .npz file", FORMS)
    except OSError as error:
        raise DataError(f"{spec} cannot be read ({said(error)})", "check the path and its permissions") from None
    if ":" not in spec:
        raise DataError(f"there is no file or folder {spec}", f"check the path, or {FORMS}")
    given = load_callable(spec, "DATA", DataError)
    try:
        return given()
    except EdgeSdkError:
        raise
    except (Exception, SystemExit) as error:
        fact = f"calling DATA {spec} failed with {said(error)}"
        raise DataError(fact, "it must return the data when called without arguments") from error


def _split(samples: Samples, batch_size: int, seed: int, classifies: bool) -> Data:
    """Training, calibration (of the training samples), holdout and test parts of samples in memory."""
    notes, stratify = list(samples.notes), classifies and samples.y is not None
    y, y_test = samples.y, samples.y_test
    if stratify:
        y = checked_labels(y, "y")
        y_test = None if y_test is None else checked_labels(y_test, "y_test")
        check_classes([y])
    own = replace(samples, y=y)
    classes = classes_of(y) if stratify and y is not None else None
    order = stratified(len(own), classes if classes is not None and classes.dim() == 1 else None, seed)
    if samples.x_test is None:
        if len(order) < 2:
            raise DataError(f"{own.origin} holds one sample", "give enough to set some aside for judging the result")
        count = max(1, round(TEST_SHARE * len(order)))
        judged, order, judging = order[:count], order[count:], own
        notes.append(f"no test data was given: {count} samples were set aside to judge the result")
    else:
        judging = replace(samples, x=samples.x_test, y=y_test)
        judged = torch.arange(len(judging))
    apart = None if samples.x_held is None else replace(samples, x=samples.x_held, y=samples.y_held)
    limits = find_limits([(own.x, own.y)])
    if limits is not None:
        usual = limits.keeps(own.x)[order]
        notes += note_left_out(int((~usual).sum()), len(order), limits, [own.x])
        notes += note_judged([rebatch(judging.x, lambda t: t[judged])], limits)
        order = order[usual]
    count = min(HOLDOUT_MOST, round(HOLDOUT_SHARE * len(order)) if apart is None else len(apart))
    if count < HOLDOUT_LEAST:
        count = 0
        notes.append("there is too little data to hold some out: finalists are compared on the calibration samples")
    if apart is None:
        apart, held, order = own, order[:count], order[count:]
    else:
        held = stratified(len(apart), apart.y if stratify else None, seed)[:count]
        held = held if limits is None else held[limits.keeps(apart.x)[held]]
    train = Shuffled(own, order, batch_size, seed)
    calibration = _batches(own, order[:CALIBRATION], batch_size)
    return Data(
        train=train,
        calibration=calibration,
        holdout=_batches(apart, held, batch_size) if count else calibration,
        test=_batches(judging, judged, batch_size),
        labelled=y is not None,
        preprocessing=samples.preprocessing,
        description=_summary(own.origin, f"{len(order)} training", min(CALIBRATION, len(order)), count, len(judged)),
        notes=tuple(notes),
        classes=samples.classes,
        sample_rate=samples.sample_rate,
    )


def _parts(source: Any, batch_size: int, seed: int) -> tuple[Any, list[str]]:
    """``source``, of which data sets are made batches; one alone is split, of two the second judges."""
    judging: Any
    if isinstance(source, tuple) and len(source) == 2 and all(map(is_dataset, source)):
        source, judging = source[0], source[1]
    elif is_dataset(source):
        judging = None
    else:
        parts = {name: getattr(source, name, None) for name in ("train", "calibration", "test")}
        if not any(map(is_dataset, parts.values())):
            return source, []
        made = {
            name: loader(part, batch_size, seed, name == "train") if is_dataset(part) else part
            for name, part in parts.items()
        }
        return SimpleNamespace(**made), []
    if not len(source):
        raise DataError("the data set is empty", "give at least a few samples")
    held = min(HOLDOUT_MOST, HOLDOUT_SHARE * len(source)) + CALIBRATION
    shares = [min(0.5, held / len(source))] + ([] if judging is not None else [TEST_SHARE])
    calibration, *rest = split(source, shares, seed)
    test = judging if judging is not None else rest[0]
    train: Subset[Any] = Subset(calibration.dataset, [*list(calibration.indices)[:CALIBRATION], *rest[-1].indices])
    aside = f"no test data was given: {len(test)} samples were set aside to judge the result"
    notes = [] if judging is not None else [aside]
    if not len(rest[-1]):
        raise DataError(f"the data set holds {len(source)} samples", "give enough to set some aside")
    batches = {"calibration": loader(calibration, batch_size, seed), "test": loader(test, batch_size, seed)}
    return SimpleNamespace(train=loader(train, batch_size, seed, True), **batches), notes


def _given(source: Any, origin: str, classifies: bool) -> Data:
    """The user's own ``train``, ``calibration`` and ``test``."""
    parts = {name: getattr(source, name, None) for name in ("train", "calibration", "test")}
    if parts["calibration"] is None and parts["train"] is None:
        fact = f"{origin}: an object of type {type(source).__name__} has neither calibration nor train"
        raise DataError(fact, "give it iterables of batches (x, y) of these names, or give a tuple (x, y) of arrays")
    given = {name: None if p is None else Given(p, name, classifies) for name, p in parts.items()}
    train, notes = given["train"], []
    if train is not None and isinstance(train.source, Iterator):
        raise DataError("train can be iterated only once", "give a list of batches or a DataLoader, not a generator")
    if given["calibration"] is None:
        assert train is not None
        calibration, rest = _read(train, CALIBRATION), []
        notes.append("no calibration data was given: the first training batches serve")
    else:
        calibration = _read(given["calibration"], READ_MOST)
        enough = next((n for n in range(len(calibration)) if _count(calibration[:n]) >= CALIBRATION), len(calibration))
        calibration, rest = calibration[:enough], calibration[enough:]
    holdout, test = rest, [] if given["test"] is None else _read(given["test"], None)
    if given["test"] is None:
        holdout, test = rest[::2], rest[1::2]
        if _count(test) < HOLDOUT_LEAST:
            holdout, test = rest, calibration
        seen = "the calibration samples judge" if test is calibration else f"{_count(test)} of calibration's judge"
        notes.append(f"no test data was given: {seen} the result")
    if _count(holdout) < HOLDOUT_LEAST:
        holdout = calibration
        notes.append("finalists are compared on the calibration samples: there were no others to hold out")
    limits = find_limits([*calibration, *(holdout if holdout is not calibration else ())])
    if limits is not None:
        parts = [calibration] if holdout is calibration else [calibration, holdout]
        kept = [keep_usual(part, limits) for part in parts]
        if left := sum(count for _, count in kept):
            notes += note_left_out(left, sum(map(_count, parts)), limits, [x for part in parts for x, _ in part])
            calibration, holdout = kept[0][0], kept[-1][0]
        notes += [] if test is parts[0] else note_judged([x for x, _ in test], limits)
        if train is not None:
            train.limits = limits
    every = [*calibration, *holdout, *test]
    with_labels = [y for _, y in every if y is not None]
    labelled = len(with_labels) == len(every)
    if with_labels and not labelled:
        lack = {"calibration": [*calibration, *holdout], "test": test}
        names = " and ".join(name for name, part in lack.items() if any(y is None for _, y in part))
        judged = "the model is judged by how near it is to the dense one"
        notes.append(
            f"batches of {names} have no labels, so that no labels are used and {judged}: give them labels, too"
        )
    if labelled and classifies:
        check_classes([y for y in with_labels if isinstance(y, Tensor)])
    if train is None:
        notes.append("no training data was given: there is no recovery beyond calibration")
    held = 0 if holdout is calibration else _count(holdout)
    counts = (_count(calibration), held, 0 if test is calibration else _count(test))
    summary = _summary(origin, _length(train), *counts)
    return Data(train, calibration, holdout, test, labelled, None, summary, tuple(notes))


def _read(source: Given, most: int | None) -> Batches:
    """The batches of ``source`` until they hold ``most`` samples."""
    batches: Batches = []
    for batch in source:
        batches.append(batch)
        if most is not None and _count(batches) >= most:
            break
    if not batches:
        raise DataError(f"{source.name} is empty", "give at least one batch")
    return batches


def run_two(model: nn.Module, x: Batch) -> Any:
    """What ``model`` answers to two samples, in evaluation mode. Raises ``ModelError`` or ``DataError`` where it fails,
    ``ModelError`` where it answers no tensor, or NaN."""
    x = rebatch(x, lambda t: t[:2])
    model.eval()
    try:
        outputs = answer(model, x)
    except Exception as error:
        raise blamed(model, x, error) from error
    make_known(outputs)
    tensors = output_tensors(outputs)
    if not tensors:
        raise ModelError(f"the model answers with a {type(outputs).__name__}", "let it return tensors")
    if any(t.is_floating_point() and torch.isnan(t).any() for t in tensors):
        raise ModelError("the model answers NaN to finite data", "check its weights and the data's normalisation")
    return outputs


def _classes(outputs: Any, output: int | None, y: Any) -> int:
    """The number of classes that the judged output tells apart."""
    tensors = output_tensors(outputs)
    judged = tensors[min(output or 0, len(tensors) - 1)]
    what = "first output" if not output else f"output {output}"
    if not judged.is_floating_point():
        fact = f"the model's {what} holds {dtype_name(judged)}, which is no score of a class"
        raise ModelError(fact, "let it return the scores that classes are chosen by, or name another --output")
    fact = f"the model's {what} has shape {tuple(judged.shape)} for two samples"
    if judged.dim() < 2 or judged[0].numel() < 2:
        remedy = "give --metric binary-accuracy where each figure is a yes or no, or --metric mse"
        raise ModelError(f"{fact}, not (2, classes)", remedy)
    if judged.dim() > 2 and y is None:
        remedy = "give labels, or --metric mse, which then is the distance to the dense model's figures"
        raise ModelError(f"{fact}, and without labels nothing says which axis holds classes", remedy)
    if judged.dim() > 2 and y.dim() < 2 and not is_row(judged):
        remedy = "give a class for each place, or let the model return (N, classes)"
        raise DataError(f"{fact}, and the labels are one for each sample", remedy)
    if y is None:
        return judged.shape[1]
    axis = class_axis(judged, class_numbers(judged, y[: len(judged)]))
    assert axis is not None
    return judged.shape[axis]


def _batches(samples: Samples, rows: Tensor, batch_size: int) -> Batches:
    return [taken(samples, part) for part in rows.split(batch_size)]


def _count(batches: Batches) -> int:
    return sum(len(tensors(x)[0]) for x, _ in batches)


def _length(train: Given | None) -> str:
    if train is None:
        return "no training"
    try:
        return f"{len(train)} batches of training"
    except TypeError:
        return "training"


def _summary(origin: str, training: str, calibration: int, holdout: int, test: int) -> str:
    return f"{origin}: {training}, {calibration} calibration, {holdout} held-out and {test} test samples"
