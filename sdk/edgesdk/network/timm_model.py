"""``timm:NAME``: a model of timm, by its name there; its weights are the user's, and nothing is downloaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from edgesdk.core.errors import ModelError
from edgesdk.core.graph import Tensor as Input
from edgesdk.core.wording import SHOWN, said
from edgesdk.network.card import NONE_GIVEN, Card, attach
from edgesdk.network.hub import alone, import_library

PREFIX = "timm:"
OPTIONS = ("num_classes", "in_chans", "img_size")
WHERE = "a name of timm.list_models(), and options after ?, like timm:resnet18?num_classes=10"


def read(spec: str) -> nn.Module:
    """The model that ``spec``, ``timm:NAME`` or ``timm:NAME?num_classes=10``, names, with random weights.

    Its card has timm's own figures for pixels, its inputs their size. Raises ``ModelError`` for a name that timm does
    not know, options that it does not take, and where timm is not installed.
    """
    name, _, query = spec.removeprefix(PREFIX).partition("?")
    options = _options(query)
    with alone():
        timm: Any = import_library("timm")
        _check_name(timm, name)
        try:
            model = timm.create_model(name, pretrained=False, **options)
        except Exception as error:  # each model takes options of its own
            fact = f"timm {timm.__version__} does not make {name}{f' with {query}' if query else ''} ({said(error)})"
            raise ModelError(fact, "leave out options that it does not take, or name another model") from None
        config: Mapping[str, Any] = timm.data.resolve_data_config(model=model)
    channels = int(options["in_chans"] if "in_chans" in options else config["input_size"][0])
    size = (options["img_size"],) * 2 if "img_size" in options else tuple(config["input_size"][1:])
    pixels: dict[str, Any] = {"image_size": size}
    if channels == len(config["mean"]) == len(config["std"]):
        pixels |= {"mean": tuple(config["mean"]), "std": tuple(config["std"])}
    names = getattr(model, "pretrained_cfg", {}).get("label_names")
    classes = tuple(map(str, names)) if names and len(names) == getattr(model, "num_classes", 0) else ()
    note = f"{NONE_GIVEN}: {spec} has random ones, for nothing is downloaded; give a file as --weights"
    return attach(model, Card(pixels, classes, notes=(note,)), (Input("", (channels, *size)),))


def _options(query: str) -> dict[str, int]:
    pairs = parse_qsl(query, keep_blank_values=True)
    if query and not pairs:
        raise ModelError(f"{query!r} are no options", f"write {WHERE}")
    for name, value in pairs:
        if name not in OPTIONS:
            raise ModelError(f"{PREFIX} takes no option {name!r}", f"choose of {', '.join(OPTIONS)}")
        if not value.isdecimal() or len(value) > 6 or int(value) < 1:
            raise ModelError(f"{name} is {value!r}", "give a whole number above 0")
    return {name: int(value) for name, value in pairs}


def _check_name(timm: Any, name: str) -> None:
    """Raise ``ModelError`` for a name that timm has no model of: others it would look for elsewhere."""
    known = timm.list_models()
    architecture, _, tag = name.partition(".")
    if architecture not in known or tag and name not in timm.list_pretrained():
        close = difflib.get_close_matches(architecture, known, SHOWN)
        remedy = f"did you mean {' or '.join(close)}?" if close and architecture not in known else f"write {WHERE}"
        raise ModelError(f"timm {timm.__version__} has no model {name!r}", remedy)
