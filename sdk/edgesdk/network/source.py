"""The file that a module was made of: what it calls things, and whether the module still is what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

SOURCE = "source"  # where in a module's ``meta`` it stands


@dataclass(frozen=True)
class Source:
    """A file, what it calls the inputs (by the names of the module's) and outputs, and a digest of its weights.

    Of a file that is quantized already, ``floats`` is the float model that it stands for, as an ONNX file's content.
    """

    path: Path
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    weights: str
    floats: bytes | None = None

    def holds(self, module: nn.Module) -> bool:
        """Whether ``module`` has the weights of the file: it may have learnt since it was read."""
        return weights_digest(module) == self.weights


def source_of(module: nn.Module) -> Source | None:
    """The file that ``module`` was made of; ``None`` for one of Python's own."""
    source = meta_of(module).get(SOURCE)
    return source if isinstance(source, Source) else None


def meta_of(module: nn.Module) -> Mapping[str, Any]:
    """What is noted of a module that was read from a file. A user's own may have a part that is called ``meta``."""
    meta = getattr(module, "meta", None)
    return meta if isinstance(meta, dict) else {}


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the values of all parameters and buffers."""
    whole = hashlib.sha256()
    for value in module.state_dict().values():
        whole.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return whole.hexdigest()
