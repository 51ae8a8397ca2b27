"""What PyTorch's exporter translates operators to, read once for all files."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

_known: dict[tuple[Any, ...], Any] = {}


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """While this lasts, ``torch.onnx.export`` takes the translations that it read before.

    For every file it parses the source of some five hundred functions anew, which takes longer than a small network
    does. Where a version of PyTorch keeps them elsewhere, nothing is changed.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        own = vars(ONNXRegistry)["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return
    read = ONNXRegistry.from_torchlib

    def read_once(*given: Any, **named: Any) -> ONNXRegistry:
        key = (*given, *sorted(named.items()))
        if key not in _known:
            _known[key] = read(*given, **named)
        registry = copy.copy(_known[key])
        registry.functions = {name: list(every) for name, every in registry.functions.items()}  # a caller adds its own
        return registry

    ONNXRegistry.from_torchlib = staticmethod(read_once)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = own
