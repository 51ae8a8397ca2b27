"""Options about what a model takes and is judged by, shared by the commands that read one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PIXELS = ("input_range", "mean", "std", "image_size", "channel_order")


def judging(command: Callable[..., None]) -> Callable[..., None]:
    """The metric, and which of several outputs it judges."""
    metrics = "top-1, mse, multilabel-f1, torchmetrics:NAME, or file.py:callable."
    for option in (
        click.option("--metric", default="top-1", show_default=True, help=metrics),
        click.option("--output", help="Of several outputs the one that is judged: its name, or its place from 0."),
    ):
        command = option(command)
    return command


def pixels(command: Callable[..., None]) -> Callable[..., None]:
    """How the model takes images: what is given here goes before what the data say."""
    for option in reversed([
        click.option("--input-range", help="What pixels of 0 and 255 become; 0,255: as they are.  [default: 0,1]"),
        click.option("--mean", help="Taken off then, like 0.485,0.456,0.406."),
        click.option("--std", help="Divided by then, like 0.229,0.224,0.225."),
        click.option("--image-size", help="Of images in a folder, like 224, or 240x320 (height first)."),
        click.option("--channel-order", help="The model's: RGB, BGR or L (grey)."),
        click.option("--preprocess", type=click.Path(path_type=Path), help="TOML: these, resize, layout and dtype."),
    ]):  # fmt: skip
        command = option(command)
    return command


def preprocessing(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with those of :func:`pixels` as one, ``preprocess``; they go before those of its file."""
    given = {name: options.pop(name) for name in PIXELS}
    given = {name: value for name, value in given.items() if value is not None}
    file = options.pop("preprocess")
    options["preprocess"] = None
    if given or file is not None:
        from edgesdk.data.preprocessing import read_preprocessing

        options["preprocess"] = {**read_preprocessing(file), **read_preprocessing(given)}
    return options
