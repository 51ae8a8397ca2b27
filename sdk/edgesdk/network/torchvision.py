"""torchvision, which other libraries import, also where its compiled part is not there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import torch

NAME = "torchvision"
UNCOMPILED = "operator torchvision::"  # how PyTorch begins to say that torchvision's compiled part is not there
DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""What torchvision gives shapes to while it is imported. No classifier calls them."""
_libraries: list[Any] = []  # PyTorch forgets what was declared when its library goes


def import_torchvision() -> None:
    """Import torchvision, also where its compiled part is not there or is of another PyTorch: then what it gives shapes
    to is declared first, without code that computes it."""
    if importlib.util.find_spec(NAME) is None:
        return
    try:
        importlib.import_module(NAME)
    except RuntimeError as error:
        if not is_uncompiled(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in DECLARED:
            library.define(schema)
        _libraries.append(library)
        importlib.import_module(NAME)


def is_uncompiled(error: BaseException) -> bool:
    """Whether ``error`` came of an import of torchvision without its compiled part, perhaps by another library."""
    return str(error).startswith(UNCOMPILED)
