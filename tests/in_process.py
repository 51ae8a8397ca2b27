"""The command line in this process, as a shell would see it: no second import of PyTorch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from edgesdk.cli import main
from edgesdk.cli.frame import ENDING

ENDED = 128 + signal.SIGTERM
QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # as Python does by itself


def edgesdk(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The exit code of the command, and all that reached file descriptors 1 and 2, native code's words too."""
    code = 0
    with _caught(1, "stdout") as out, _caught(2, "stderr") as err, _plain_warnings(), _own_signals():
        try:
            main.main([str(argument) for argument in arguments], prog_name="edgesdk")
        except SystemExit as ended:
            code = int(ended.code or 0)
    if code == ENDED:
        pytest.exit("ended by SIGTERM", code)
    return subprocess.CompletedProcess(arguments, code, _text(out), _text(err))


@contextlib.contextmanager
def _caught(number: int, name: str) -> Iterator[IO[bytes]]:
    """``sys.stdout`` or ``sys.stderr`` and the descriptor behind it end in a file."""
    before, real = getattr(sys, name), os.dup(number)
    before.flush()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), number)
        stream = os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace")
        setattr(sys, name, stream)
        copy = os.fdopen(os.dup(file.fileno()), "rb")
        try:
            yield copy
        finally:
            stream.close()
            setattr(sys, name, before)
            os.dup2(real, number)
            os.close(real)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings are printed as in a process without pytest."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in QUIET:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda *said: print(warnings.formatwarning(*said[:4]), end="", file=sys.stderr)
        yield


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """What the command does about signals ends with it: the tests are to end by one."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _text(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode()
