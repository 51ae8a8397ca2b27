"""Options about what a model takes and is judged by, shared by the commands that read one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgesdk.core.errors import UsageError

MODEL = (
    "file.py:callable, package.module:callable, an .onnx file, a .pt2 of torch.export.save, timm:NAME, or a folder that"
    " transformers saved"
)
LOSS = "To learn back by: file.py:callable of outputs and targets, or a class like torch.nn:HuberLoss."
DIGITS = 12  # of a size; Python refuses to read some thousands
PIXELS = ("input_range", "mean", "std", "image_size", "channel_order", "sample_rate")


def judging(command: Callable[..., None]) -> Callable[..., None]:
    """The metric, which of several outputs it judges, and a loss of the user's own."""
    metrics = "top-1, mse, binary-accuracy, multilabel-f1, torchmetrics:NAME, or file.py:callable."
    for option in (
        click.option("--metric", default="top-1", show_default=True, help=metrics),
        click.option("--output", help="Of several outputs the one that is judged: its name, or its place from 0."),
        click.option("--loss", help=LOSS),
    ):
        command = option(command)
    return command


def pixels(command: Callable[..., None]) -> Callable[..., None]:
    """How the model takes images and waves: what is given here goes before what the data say."""
    for option in reversed([
        click.option("--input-range", help="What pixels of 0 and 255 become; 0,255: as they are.  [default: 0,1]"),
        click.option("--mean", help="Taken off then, like 0.485,0.456,0.406."),
        click.option("--std", help="Divided by then, like 0.229,0.224,0.225."),
        click.option("--image-size", help="Of images in a folder, like 224, or 240x320 (height first)."),
        click.option("--channel-order", help="The model's: RGB, BGR or L (grey)."),
        click.option("--sample-rate", type=int, help="Of waves, in Hz: run.py brings a .wav to it."),
        click.option("--preprocess", type=click.Path(path_type=Path), help="TOML: these, resize, layout and dtype."),
    ]):  # fmt: skip
        command = option(command)
    return command


def shaped(command: Callable[..., None]) -> Callable[..., None]:
    """The shapes of a model's inputs, as ``shapes``: text that :func:`inputs` reads."""
    return click.option(
        "--shape",
        "shapes",
        multiple=True,
        help="Of an input without the batch, like 3x224x224; of several each, in order or by name, with a type where"
        " it is no float: --shape ids=128:int64 --shape mask=128.",
    )(command)


def inputs(shapes: tuple[str, ...]) -> Any:
    """The single input's shape, a description of each of several, or ``None`` where there is none."""
    from edgesdk.core.graph import Tensor

    tensors = []
    for text in shapes:
        name, _, rest = text.rpartition("=")
        sizes, _, dtype = rest.partition(":")
        tensors.append(Tensor(name, _shape(sizes), dtype or "float32"))
    if len({bool(tensor.name) for tensor in tensors}) > 1:
        raise UsageError("some shapes have the name of their input and some have none", "name all, or none")
    plain = len(tensors) == 1 and tensors[0] == Tensor("", tensors[0].shape)
    return tensors[0].shape if plain else tuple(tensors) or None


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(part.strip().isdecimal() and len(part) <= DIGITS and int(part) > 0 for part in parts):
        raise UsageError(f"{text!r} is no shape", "write it without the batch, like 3x224x224")
    return tuple(map(int, parts))


def preprocessing(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with those of :func:`pixels` as one, ``preprocess``, which go before those of its file, and those of
    :func:`shaped` read."""
    given = {name: options.pop(name) for name in PIXELS}
    given = {name: value for name, value in given.items() if value is not None}
    file = options.pop("preprocess")
    options["preprocess"], options["shapes"] = None, inputs(options["shapes"])
    if given or file is not None:
        from edgesdk.data.preprocessing import read_preprocessing

        options["preprocess"] = {**read_preprocessing(file), **read_preprocessing(given)}
    return options
