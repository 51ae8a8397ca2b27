"""Where samples come from: ``.npz`` files, folders of images, and arrays; read and checked, but not yet split."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesdk.core.arrays import PICKLED, read_npz
from edgesdk.core.errors import DataError, UsageError
from edgesdk.core.wording import counted, listed
from edgesdk.data.folders import read_folder
from edgesdk.data.preprocessing import Preprocessing, read_preprocessing
from edgesdk.network.network import Batch, rebatch, tensors
from edgesdk.network.onnx_module.names import identifiers

ARRAYS = ("x", "y", "x_test", "y_test", "mean", "std", "classes")  # of which samples are made
TEST = "_test"  # behind the name of an input, of what judges
RATE = "sample_rate"  # the array of a file that says at which waves were sampled
CHANNELS = (1, 3, 4)
AS_THEY_ARE = (torch.uint8, torch.float32, torch.int32, torch.int64, torch.bool)
OTHER_WIDTHS = (torch.float64, torch.float16, torch.bfloat16)  # of floats, which all are float32 in files


@dataclass(frozen=True)
class Samples:
    """Samples in memory as they were read, their labels, the names of their classes, and what a model takes them as.

    ``x_test`` and ``y_test`` are ``None`` where the source has no test part, ``x_held`` and ``y_held`` where it sets
    none apart for telling finalists apart.
    """

    x: Batch
    y: Tensor | None
    origin: str
    x_test: Batch | None = None
    y_test: Tensor | None = None
    x_held: Batch | None = None
    y_held: Tensor | None = None
    preprocessing: Preprocessing | None = None
    sample_rate: int | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(tensors(self.x)[0])

    def prepare(self, x: Batch) -> Batch:
        """A batch of x as a model takes it."""
        return x if self.preprocessing is None else rebatch(x, self.preprocessing)


def from_npz(
    path: Path, wanted: Mapping[str, Any], usual: Mapping[str, Any] | None = None, inputs: Sequence[str] = ()
) -> Samples:
    """The arrays ``x``, ``y``, ``x_test``, ``y_test``, ``mean``, ``std``, ``classes`` and ``sample_rate`` of a file,
    all but ``x`` optional; ``wanted`` says more of the preprocessing, ``usual`` what nobody else does.

    In the place of ``x`` there may be an array for each input of the model by its name, ``NAME_test`` beside it;
    ``inputs`` are these names where they are known. Nothing in the file is executed. Raises ``DataError`` where it
    cannot be read or its arrays do not belong together.
    """
    if not zipfile.is_zipfile(path):
        fact = f"{path} is no .npz archive, and a pickle would not be executed"
        raise DataError(fact, "write it with numpy.savez(path, x=..., y=...)")
    try:
        arrays = read_npz(path)
    except (OSError, ValueError) as error:
        if str(error) == PICKLED:
            fact = f"{path} holds pickled objects, which are never executed"
            raise DataError(fact, "save arrays of numbers with numpy.savez") from None
        raise DataError(f"{path} cannot be read ({error})", "write it anew with numpy.savez") from None
    given = {name: arrays.get(name) for name in ARRAYS}
    unknown = [name for name in arrays if name not in (*ARRAYS, RATE)]
    columns = _by_input(arrays, inputs, unknown)
    if len(columns) > ("x" in columns):
        given |= _parts_by_input(columns, arrays)
        unknown = [name for name in unknown if name.removesuffix(TEST) not in columns.values()]
    elif "x" not in arrays:
        held = ", ".join(sorted(arrays)) or "nothing"
        instead = f", or each after an input of the model ({listed(inputs)})" if inputs else ""
        raise DataError(f"{path} has no array x, it holds {held}", f"name the samples x{instead} and the labels y")
    samples = from_arrays(str(path), **given, wanted=wanted, usual=usual)
    note = (f"arrays that mean nothing here were left out: {listed(unknown)}",) if unknown else ()
    rate = read_preprocessing({RATE: arrays[RATE].tolist()})[RATE] if RATE in arrays else None
    return replace(samples, sample_rate=rate, notes=(*samples.notes, *note))


def _by_input(arrays: Mapping[str, Any], inputs: Sequence[str], unknown: Sequence[str]) -> dict[str, str]:
    """The array of each of a model's ``inputs`` that has one, in their order; where these are not known, and there is
    no ``x``, all that are ``unknown`` are theirs, if there are several."""
    if not inputs:
        parts = [n for n in unknown if not (n.endswith(TEST) and n.removesuffix(TEST) in unknown)]
        return {} if "x" in arrays or len(parts) < 2 else {name: name for name in parts}
    called = dict(zip(identifiers([*unknown, "x"]), [*unknown, "x"], strict=True))
    return {name: array for name in inputs if (array := called.get(name, name)) in arrays}


def _parts_by_input(columns: Mapping[str, str], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """``x``, and ``x_test`` where there is some, of the arrays of a model's inputs."""
    judging = {name: array + TEST for name, array in columns.items()}
    there = [array for array in judging.values() if array in arrays]
    if there and (lacking := [array for array in judging.values() if array not in arrays]):
        raise DataError(f"there is no {lacking[0]}, and {there[0]}", "give each of the inputs one, or none")
    test = {name: arrays[array] for name, array in judging.items()} if there else None
    return {"x": {name: arrays[array] for name, array in columns.items()}, "x_test": test}


def from_folder(path: Path, wanted: Mapping[str, Any], usual: Mapping[str, Any]) -> Samples:
    """The images of :func:`edgesdk.data.folders.read_folder`; its split ``test``, or else ``val``, is to judge."""
    content = read_folder(path, {**usual, **wanted})
    judging = content.parts.get("test", content.parts.get("val", (None, None)))
    samples = from_arrays(str(path), *content.parts["train"], *judging, wanted=wanted, usual=usual)
    held = content.parts["val"] if {"val", "test"} <= content.parts.keys() else None
    if held is not None:
        x_held, y_held = (torch.from_numpy(part) for part in held)
        if (described := _described(samples.x)) != (other := _described(x_held)):
            raise DataError(f"val is {other} where train is {described}", "bring all images to one size and mode")
        samples = replace(samples, x_held=x_held, y_held=y_held)
    return replace(samples, classes=content.classes, notes=(*samples.notes, *content.notes))


def from_arrays(
    origin: str, x: Any, y: Any = None, x_test: Any = None, y_test: Any = None, mean: Any = None, std: Any = None,
    classes: Any = None, wanted: Mapping[str, Any] | None = None, usual: Mapping[str, Any] | None = None,
) -> Samples:  # fmt: skip
    """Arrays or tensors, ``x`` perhaps a tuple or dict of them, checked; pixels of uint8 are to be scaled to 0..1 and
    normalised, or as ``wanted`` says (:class:`Preprocessing`), or as is ``usual`` for the model.

    Raises ``DataError`` for parts that do not belong together, an unknown dtype, and values that are not finite;
    ``UsageError`` for a preprocessing of what are no pixels.
    """
    x, y = _batch(x, "x"), None if y is None else tensor(y, "y")
    check_part(x, y, "x", "y")
    if (y_test is None) != (x_test is None or y is None):
        fact = "y_test is there without x_test or y" if y_test is not None else "x_test is there without y_test"
        raise DataError(fact, "give both or neither, and y with them")
    notes: list[str] = []
    if x_test is not None:
        x_test, y_test = _batch(x_test, "x_test"), None if y_test is None else tensor(y_test, "y_test")
        check_part(x_test, y_test, "x_test", "y_test")
        if (described := _described(x)) != (other := _described(x_test)):
            raise DataError(f"x_test is {other} where x is {described}", "make both of one shape and dtype")
    if _is_channels_last(x):
        # only the view changes: preparing a batch makes it contiguous
        x, x_test = x.permute(0, 3, 1, 2), None if x_test is None else x_test.permute(0, 3, 1, 2)
        if (wanted or {}).get("layout") != "NHWC":
            notes.append(
                "the images lay as (samples, height, width, channels); the model gets (samples, channels, ...)"
            )
    samples = Samples(x, y, origin, x_test, y_test, classes=_classes(classes))
    if not any(t.dtype == torch.uint8 for t in tensors(x)):
        if wanted:
            kind = " and ".join(dict.fromkeys(dtype_name(t) for t in tensors(x)))
            fact = f"there is a preprocessing of pixels ({', '.join(wanted)}), and x is {kind}"
            raise UsageError(fact, "give x as uint8, or as the model takes it and no preprocessing")
        if mean is not None or std is not None:
            notes.append("mean and std were not applied: x is not uint8 and is taken as it is")
        return replace(samples, notes=tuple(notes))
    settled = Preprocessing(**usual or {})
    if mean is not None or std is not None:
        mean, std = tuple(_figures(mean, x, "mean")), tuple(_positive(std, x))
        settled = replace(settled, input_range=Preprocessing.input_range, mean=mean, std=std)
    settled = settled.given(wanted or {})
    if settled.mean:
        settled = replace(settled, mean=tuple(_figures(settled.mean, x, "mean")), std=tuple(_positive(settled.std, x)))
    if settled == Preprocessing():
        notes.append("uint8 values were scaled to 0..1; there was no mean and std to normalise them with")
    return replace(samples, preprocessing=settled, notes=tuple(notes))


def _positive(std: Any, x: Batch) -> list[float]:
    figures = _figures(std, x, "std")
    if min(figures) <= 0:
        raise DataError(f"std is {figures}", "give a positive figure per channel")
    return figures


def _classes(names: Any) -> tuple[str, ...]:
    """The names of the classes, where there are some."""
    if names is None:
        return ()
    array = np.asarray(names)
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise DataError(f"classes is of shape {array.shape} and dtype {array.dtype}", "give a name for each class")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array.tolist())


def tensor(value: Any, what: str) -> Tensor:
    """``value`` as a tensor; floats of any width become float32. ``DataError`` for other dtypes."""
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
        except ValueError:
            raise DataError(f"the rows of {what} differ in shape", "bring them to one shape") from None
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise DataError(f"{what} is of dtype {array.dtype}", "give an array of numbers: uint8, float32 or int64")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        value = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    value = value.detach().cpu()
    if value.dtype in OTHER_WIDTHS:
        return value.float()
    if what.startswith("x") and value.dtype not in AS_THEY_ARE:
        raise DataError(
            f"{what} is of dtype {dtype_name(value)}", "give uint8 (images), a float type, int32, int64 or bool"
        )
    return value


def check_part(x: Batch, y: Any, x_name: str, y_name: str) -> None:
    """Raise ``DataError`` where a part is empty, its tensors differ in length, or a value is not finite."""
    parts = tensors(x)
    if any(t.dim() == 0 for t in parts):
        raise DataError(f"{x_name} has no axis of samples", "give batches; in Python, wrap a data set in a DataLoader")
    lengths = {len(t) for t in parts}
    if not parts or 0 in lengths:
        raise DataError(f"{x_name} is empty", "give at least a few samples")
    if len(lengths) > 1:
        raise DataError(f"the tensors of {x_name} differ in length: {sorted(lengths)}", "give as many samples in each")
    for part in parts:
        check_finite(part, x_name)
    if isinstance(y, Tensor):
        if y.dim() == 0 or len(y) != len(parts[0]):
            length = len(y) if y.dim() else 1
            raise DataError(
                f"{x_name} has {len(parts[0])} samples and {y_name} {length}", "give as many labels as samples"
            )
        check_finite(y, y_name)


def check_finite(value: Tensor, what: str) -> None:
    """Raise ``DataError`` where ``value`` holds NaN or infinities: how many, and where the first is."""
    if value.is_floating_point() and not (finite := torch.isfinite(value)).all():
        bad = (~finite).nonzero()
        index = tuple(bad[0].tolist())
        samples = len(bad[:, 0].unique())
        fact = f"{what} holds {len(bad)} NaN or infinite values in {samples} of {counted(len(value), 'sample')}"
        raise DataError(
            f"{fact}, the first at {index}", "remove or replace them", count=len(bad), samples=samples, first=index[0]
        )


def dtype_name(value: Tensor) -> str:
    """A tensor's dtype as NumPy names it."""
    return str(value.dtype).removeprefix("torch.")


def _batch(x: Any, what: str) -> Batch:
    if isinstance(x, Mapping):
        return {str(k): tensor(v, f"{what}[{k!r}]") for k, v in x.items()}
    if isinstance(x, (tuple, list)) and any(isinstance(v, (Tensor, np.ndarray)) and v.ndim for v in x):
        return tuple(tensor(v, f"{what}[{i}]") for i, v in enumerate(x))
    return tensor(x, what)


def _is_channels_last(x: Batch) -> bool:
    if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.dim() != 4:
        return False
    return x.shape[3] in CHANNELS and x.shape[1] not in CHANNELS


def _figures(value: Any, x: Batch, what: str) -> list[float]:
    """One figure, or one per channel, as numbers."""
    channels = [t.shape[1] if t.dim() > 1 else 1 for t in tensors(x) if t.dtype == torch.uint8]
    array = np.atleast_1d(np.asarray([] if value is None else value))
    if array.dtype.kind not in "iuf":
        raise DataError(f"{what} is of dtype {array.dtype}", "give a float per channel")
    values: list[float] = array.astype(np.float64).ravel().tolist()
    if not all(len(values) in (1, c) for c in channels) or not np.isfinite(values).all():
        fact = f"{what} is missing" if value is None else f"{what} is {values} for {channels[0]} channels"
        raise DataError(fact, "give mean and std, each with one finite figure per channel")
    return values


def _described(x: Batch) -> str:
    return " and ".join(f"{tuple(t.shape[1:])} {dtype_name(t)}" for t in tensors(x))
