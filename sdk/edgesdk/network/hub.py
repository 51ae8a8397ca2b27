"""Libraries of models, imported when a user asks for one of theirs, and kept from the network."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import said

OFFLINE = "HF_HUB_OFFLINE"  # huggingface_hub's own: no request leaves
UNCOMPILED = "operator torchvision::"  # how PyTorch begins to say that torchvision's compiled part is not there
DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""What torchvision gives shapes to while it is imported. No classifier calls them."""
_libraries: list[Any] = []  # PyTorch forgets what was declared when its library goes


def import_library(name: str) -> ModuleType:
    """The library of models ``name``, which has an extra of that name. Raises ``ModelError`` where it is not there, or
    does not import."""
    if importlib.util.find_spec(name) is None:
        raise ModelError(f"{name} is not installed", f"pip install 'edgesdk[{name}]'")
    try:
        _import_torchvision()
        return importlib.import_module(name)
    except Exception as error:  # of what it needs some may be there in a version that does not fit
        raise ModelError(f"{name} cannot be imported ({said(error)})", f"pip install -U 'edgesdk[{name}]'") from error


def _import_torchvision() -> None:
    """Import torchvision, also where its compiled part is not there or is of another PyTorch: then what it gives shapes
    to is declared first, without code that computes it."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if not str(error).startswith(UNCOMPILED):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in DECLARED:
            library.define(schema)
        _libraries.append(library)
        importlib.import_module("torchvision")


@contextmanager
def alone() -> Iterator[None]:
    """Within it no library asks the network for anything or writes to the terminal, and random weights are the same."""
    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"
    constants: Any = sys.modules.get("huggingface_hub.constants")
    was = getattr(constants, OFFLINE, None)
    if constants is not None:
        setattr(constants, OFFLINE, True)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        constants = sys.modules.get("huggingface_hub.constants")
        if constants is not None:
            setattr(constants, OFFLINE, bool(was))
        del os.environ[OFFLINE]
        if before is not None:
            os.environ[OFFLINE] = before
