"""Stdout is for results alone: what a library, native or not, prints there goes to stderr while a command works."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

_kept: list[TextIO] = []  # the results' own stream, while a command works


@contextlib.contextmanager
def results_apart() -> Iterator[None]:
    """Point file descriptor 1 and ``sys.stdout`` at stderr; :func:`emit` and :func:`console` reach the real stdout."""
    python = sys.stdout
    try:
        real = os.dup(1)
    except OSError:  # it is closed: there is nothing to keep apart
        yield
        return
    python.flush()
    os.dup2(2, 1)
    owned = _descriptor(python) == 1
    stream = os.fdopen(os.dup(real), "w", encoding=python.encoding, errors=python.errors) if owned else python
    _kept.append(stream)
    sys.stdout = sys.stderr
    try:
        yield
        stream.flush()
    finally:
        _kept.pop()
        sys.stdout = python
        _flush_native()
        os.dup2(real, 1)
        os.close(real)
        if owned:
            with contextlib.suppress(OSError):  # a reader that is gone was told of above
                stream.close()


def _descriptor(stream: TextIO) -> int | None:
    """The file descriptor of ``stream``; ``None`` where it has none, as in a test."""
    try:
        return stream.fileno()
    except (OSError, AttributeError):
        return None


def _flush_native() -> None:
    """Write out what C's stdio holds back: it would reach the real stdout otherwise."""
    import ctypes

    ctypes.CDLL(None).fflush(None)


def results() -> TextIO:
    """Where results go."""
    return _kept[-1] if _kept else sys.stdout


def emit(text: str, nl: bool = True) -> None:
    """Print a result."""
    click.echo(text, file=results(), nl=nl)


def emit_json(value: Any) -> None:
    """Print ``value`` as the one JSON document of a command."""
    from edgesdk.core.serialize import dumps

    emit(dumps(value), nl=False)


def console(soft_wrap: bool = False) -> Console:
    """What prints results as tables."""
    from rich.console import Console

    return Console(file=results(), soft_wrap=soft_wrap)
