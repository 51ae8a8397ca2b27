"""The operators that PyTorch could take apart, collected once for all programs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_known: dict[tuple[str, int], set[Any]] = {}  # by a namespace and how many operators it has


@contextlib.contextmanager
def collecting_once() -> Iterator[None]:
    """While this lasts, PyTorch takes the operators of a namespace that it found before.

    For every program that is exported or lowered it walks all operators that there are, once for each namespace, which
    takes as long as a small network does. Where a version of PyTorch does that elsewhere, nothing is changed.
    """
    try:
        from torch._export import utils

        own = utils._collect_all_valid_cia_ops_for_namespace
    except (ImportError, AttributeError):
        yield
        return

    def collect_once(namespace: Any) -> set[Any]:
        found = _known.get((namespace.name, len(list(namespace))))
        if found is None:
            found = own(namespace)  # which may meet operators that nobody used yet
            _known[namespace.name, len(list(namespace))] = found
        return found

    utils._collect_all_valid_cia_ops_for_namespace = collect_once
    try:
        yield
    finally:
        utils._collect_all_valid_cia_ops_for_namespace = own
