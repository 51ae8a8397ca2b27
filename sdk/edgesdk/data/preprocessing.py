"""What is done to pixels before a model sees them, settled once: the loaders do it, and a bundle's ``run.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from sys import float_info
from typing import Any

import torch
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.core.serialize import is_list, loads_toml
from edgesdk.core.wording import said

PIXEL = 255.0  # the largest value of one
LARGEST = 1 << 14  # pixels of an image's side
HIGHEST = 10_000_000  # Hz
CROP, STRETCH = "crop", "stretch"
ORDERS, LAYOUTS, RESIZES, DTYPES = ("RGB", "BGR", "L"), ("NCHW", "NHWC"), (CROP, STRETCH), ("float32", "uint8")


@dataclass(frozen=True)
class Preprocessing:
    """How a model takes images of uint8 pixels, or waves.

    ``input_range`` is what 0 and 255 become, ``mean`` and ``std`` then are taken off and divided by, one figure or one
    for each of the model's channels; ``dtype`` ``uint8`` leaves pixels as they are. ``channel_order`` is the model's:
    ``RGB``, ``BGR`` or ``L`` (grey); ``None`` leaves channels as they lie. ``layout`` is the model's. ``image_size``,
    height and width, is what images in files are brought to: by ``crop`` their shorter side is scaled to it and the
    centre cut out, by ``stretch`` both sides are scaled. ``sample_rate``, in Hz, is that of waves. Raises
    ``UsageError`` for what is none of these.
    """

    input_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: tuple[int, int] | None = None
    resize: str = CROP
    channel_order: str | None = None
    layout: str = "NCHW"
    dtype: str = "float32"
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        choices = {"resize": RESIZES, "layout": LAYOUTS, "dtype": DTYPES, "channel_order": (None, *ORDERS)}
        for name, values in choices.items():
            if (value := getattr(self, name)) not in values:
                named = ", ".join(str(choice) for choice in values if choice)
                raise UsageError(f"{_flag(name)} is {value!r}", f"choose one of {named}")
        for name, count in (("input_range", (2,)), ("mean", (0, 1, 3, 4)), ("std", (0, 1, 3, 4))):
            object.__setattr__(self, name, _figures(name, getattr(self, name), count))
        if self.input_range[0] >= self.input_range[1]:
            raise UsageError(f"{_flag('input_range')} is {self.input_range}", "give the lower end first, like 0,1")
        if bool(self.mean) != bool(self.std):
            raise UsageError("mean without std, or std without mean", "give both, each one figure or one per channel")
        if self.std and min(self.std) <= 0:
            raise UsageError(f"{_flag('std')} is {list(self.std)}", "give positive figures")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _size(self.image_size))
        if self.sample_rate is not None:
            object.__setattr__(self, "sample_rate", _rate(self.sample_rate))

    @property
    def normalization(self) -> dict[str, Any] | None:
        """The same as factors of pixels: ``scale``, then ``offset``, ``mean`` and ``std`` where there are such."""
        if self.dtype == "uint8":
            return None
        low, high = self.input_range
        settings: dict[str, Any] = {"scale": (high - low) / PIXEL} | ({"offset": low} if low else {})
        return settings | ({"mean": list(self.mean), "std": list(self.std)} if self.mean else {})

    @property
    def flags(self) -> str:
        """The options of the command line that say so."""
        low, high = self.input_range
        said = [f"--input-range {low:g},{high:g}"] if self.dtype == "float32" else []
        said += [f"--mean {_joined(self.mean)} --std {_joined(self.std)}"] if self.mean else []
        said += [f"--channel-order {self.channel_order}"] if self.channel_order == "BGR" else []
        return " ".join(said)

    def __call__(self, x: Tensor) -> Tensor:
        """Pixels (N, channels, ...) as the model takes them; what is not uint8 stays as it is."""
        return self.of_pixels(x) if x.dtype == torch.uint8 else x

    def of_pixels(self, x: Tensor) -> Tensor:
        """The same of pixels of any type."""
        if self.channel_order == "BGR" and x.dim() == 4 and x.shape[1] == 3:
            x = x.flip(1)
        if self.dtype == "float32":
            low, high = self.input_range
            x = x.float().contiguous() * ((high - low) / PIXEL)
            x = x + low if low else x
            if self.mean:
                x = (x - _along(self.mean, x)) / _along(self.std, x)
        return x.permute(0, 2, 3, 1).contiguous() if self.layout == "NHWC" and x.dim() == 4 else x.contiguous()

    def pixels(self, x: Tensor) -> Tensor:
        """The pixels, as floats, that :meth:`of_pixels` makes ``x`` of."""
        if self.layout == "NHWC" and x.dim() == 4:
            x = x.permute(0, 3, 1, 2)
        if self.dtype == "float32":
            low, high = self.input_range
            x = x * _along(self.std, x) + _along(self.mean, x) if self.mean else x
            x = (x - low) * (PIXEL / (high - low))
        return x.flip(1) if self.channel_order == "BGR" and x.dim() == 4 and x.shape[1] == 3 else x

    def given(self, wanted: Mapping[str, Any]) -> Preprocessing:
        """This with what a user says: a range of one's own makes the data's mean and std meaningless."""
        if "input_range" in wanted and "mean" not in wanted and "std" not in wanted:
            return replace(self, mean=(), std=(), **wanted)
        return replace(self, **wanted)


def read_preprocessing(source: Preprocessing | Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    """What a user says of the preprocessing, by the names of the fields: from an object, a mapping or a TOML file."""
    if source is None:
        return {}
    if isinstance(source, Preprocessing):
        if source.sample_rate is not None and source == Preprocessing(sample_rate=source.sample_rate):
            return {"sample_rate": source.sample_rate}  # of waves, and nothing of pixels
        return {field.name: getattr(source, field.name) for field in fields(source)}
    if isinstance(source, (str, Path)):
        return _read(Path(source))
    names = {field.name for field in fields(Preprocessing)}
    wanted = {name: value for name, value in source.items() if value is not None}
    if unknown := [name for name in wanted if name not in names]:
        raise UsageError(f"preprocessing has no key {unknown[0]!r}", f"choose of {', '.join(sorted(names))}")
    checked = Preprocessing(**_paired(wanted))
    return {name: getattr(checked, name) for name in wanted}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = loads_toml(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "check the path") from None
    except ValueError as error:
        raise UsageError(f"{path} is no TOML: {said(error)}", "write it like: input_range = [0, 255]") from None
    try:
        return read_preprocessing(document)
    except UsageError as error:
        raise UsageError(f"{path}: {error.fact}", error.remedy) from None


def _paired(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """``wanted`` so that it can be checked alone: the data may have the other of mean and std."""
    settings = dict(wanted)
    if ("mean" in settings) != ("std" in settings):
        settings.setdefault("mean", 0.0)
        settings.setdefault("std", 1.0)
    return settings


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Figures as people write them: ``0.485,0.456,0.406``. Raises ``UsageError``."""
    try:
        return tuple(float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError:
        raise UsageError(f"{what} {text!r} is no list of numbers", "write it like 0.485,0.456,0.406") from None


def _figures(name: str, value: Any, counts: tuple[int, ...]) -> tuple[float, ...]:
    if isinstance(value, str):
        value = numbers(value, _flag(name))
    values = (value,) if isinstance(value, (int, float)) else tuple(value) if is_list(value) else None
    if values is None or not all(
        isinstance(number, (int, float)) and abs(number) <= float_info.max for number in values
    ):
        raise UsageError(f"{_flag(name)} is {value!r:.80}", "give finite numbers")
    if len(values) not in counts:
        allowed = " or ".join(str(count) for count in counts if count)
        raise UsageError(f"{_flag(name)} has {len(values)} figures", f"give {allowed}, separated by commas")
    return tuple(map(float, values))


def _size(value: Any) -> tuple[int, int]:
    try:
        parts = value.lower().split("x") if isinstance(value, str) else [value] if isinstance(value, int) else value
        sides = [int(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        sides = []
    if len(sides) not in (1, 2) or not all(0 < side <= LARGEST for side in sides):
        raise UsageError(f"{_flag('image_size')} is {value!r:.80}", "give height and width, like 224x224 or 224")
    return sides[0], sides[-1]


def _rate(value: Any) -> int:
    whole = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not 0 < whole <= HIGHEST:
        raise UsageError(f"{_flag('sample_rate')} is {value!r:.80}", "give it in Hz, like 16000")
    return whole


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name not in ("resize", "layout", "dtype") else name


def _along(figures: tuple[float, ...], x: Tensor) -> Tensor:
    """``figures`` along the axis of the channels."""
    return torch.tensor(figures, dtype=torch.float32).view((1, -1) + (1,) * (x.dim() - 2) if x.dim() > 1 else (-1,))


def _joined(figures: tuple[float, ...]) -> str:
    return ",".join(f"{figure:g}" for figure in figures)
