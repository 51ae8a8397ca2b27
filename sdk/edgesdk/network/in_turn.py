"""PyTorch traces one program at a time, and what is set meanwhile holds for all of the process: threads take turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TURN = threading.RLock()


@contextmanager
def in_turn() -> Iterator[None]:
    """While this lasts, no other thread is in what is done in turn, too: for what traces, or changes what PyTorch's
    modules, loggers, warnings or the streams are meanwhile."""
    with _TURN:
        yield
