"""What makes ExecuTorch's lowering quicker without changing what it makes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_known: dict[str, set[Any]] = {}


@contextlib.contextmanager
def collecting_once() -> Iterator[None]:
    """While this lasts, PyTorch takes the operators of a namespace that it found before.

    For every program it walks all operators that there are several times, which takes longer than a small network
    does. Where a version of PyTorch does that elsewhere, nothing is changed.
    """
    try:
        from torch._export import utils

        own = utils._collect_all_valid_cia_ops_for_namespace
    except (ImportError, AttributeError):
        yield
        return

    def collect_once(namespace: Any) -> set[Any]:
        if namespace.name not in _known:
            _known[namespace.name] = own(namespace)
        return _known[namespace.name]

    utils._collect_all_valid_cia_ops_for_namespace = collect_once
    try:
        yield
    finally:
        utils._collect_all_valid_cia_ops_for_namespace = own
