"""What a user's own batches declare of themselves: how their pixels were prepared, their sample rate, their classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesdk.core.errors import DataError
from edgesdk.data.preprocessing import PIXEL, Preprocessing, read_preprocessing
from edgesdk.network.network import Batch

BESIDE = 2.0  # steps of a pixel that prepared ones may be off: resizing overshoots
SAYS = (Preprocessing, Mapping, str, Path)  # how a preprocessing can be said
SOURCES = ("train", "calibration", "dataset")  # where an attribute is looked for that the source itself has not


def read_declared(source: Any, x: Batch) -> tuple[Preprocessing | None, int | None]:
    """The attribute ``preprocessing`` of ``source``, what was done to the pixels of ``x``; and the ``sample_rate``.

    Raises ``UsageError`` for a preprocessing that is none, and ``DataError`` for one that ``x`` was not prepared by.
    """
    wanted = dict(read_preprocessing(_attribute(source, "preprocessing", SAYS)))
    rate = wanted.pop("sample_rate", None) or _attribute(source, "sample_rate", (int,))
    if not wanted:
        return None, None if rate is None else read_preprocessing({"sample_rate": rate})["sample_rate"]
    done = Preprocessing(**wanted)
    _check_done(done, x)
    return done, rate


def read_classes(source: Any) -> tuple[str, ...]:
    """The names of the classes, where ``source`` has some: as torchvision's data sets do."""
    names = _attribute(source, "classes", (list, tuple)) or ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def _attribute(source: Any, name: str, kinds: tuple[type, ...]) -> Any:
    """What ``source`` calls so, or what it was made of; ``None`` where that is of none of ``kinds``, which may well
    mean something else."""
    if isinstance(source, tuple) and source:
        return _attribute(source[0], name, kinds)
    if isinstance(value := getattr(source, name, None), kinds):
        return value
    inner = [part for part in (getattr(source, name, None) for name in SOURCES) if part is not None]
    return next((value for part in inner if (value := _attribute(part, name, kinds)) is not None), None)


def is_image(x: Batch) -> bool:
    """Whether ``x`` is a batch of images."""
    return isinstance(x, Tensor) and x.dim() == 4


def is_made_by(done: Preprocessing, x: Batch) -> bool:
    """Whether images can be what ``done`` makes of pixels of 0 to 255."""
    try:
        _check_done(done, x)
    except DataError:
        return False
    return True


def _check_done(done: Preprocessing, x: Batch) -> None:
    """Raise ``DataError`` where ``x`` cannot be what ``done`` makes of pixels of 0 to 255."""
    remedy = "let the attribute preprocessing say what was done to the pixels"
    if not isinstance(x, Tensor) or not is_image(x):
        raise DataError("there is a preprocessing of pixels, and x is no batch of images", remedy)
    if (x.dtype == torch.uint8) != (done.dtype == "uint8"):
        kind = str(x.dtype).removeprefix("torch.")
        raise DataError(f"x is {kind}, and its preprocessing says {done.dtype}", remedy)
    pixels = done.pixels(x.float())
    low, high = float(pixels.min()), float(pixels.max())
    if low < -BESIDE or high > PIXEL + BESIDE:
        fact = f"x is not what its preprocessing makes of pixels: they would have been {low:.4g} to {high:.4g}"
        raise DataError(fact, remedy)
