"""Temporary folders that outlive no run of the tests: what a killed one left goes when the next one starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

PLACE = "PYTEST_DEBUG_TEMPROOT"  # where pytest has its own such folders, too, for this process and those it starts
os.environ.setdefault(PLACE, tempfile.gettempdir())


def folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with the number of this process in its name; those of processes that are gone are removed."""
    place = os.environ[PLACE]
    for left in Path(place).glob(f"{prefix}-*-*"):
        number = left.name.removeprefix(f"{prefix}-").partition("-")[0]
        if number.isdigit() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{prefix}-{os.getpid()}-", dir=place)


def use_own(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """From now on this process, and those that it starts, have all that is temporary in a folder of their own.

    What measures waits for who else does so, by a lock there: another process of the tests is a device of its own.
    """
    own = folder(prefix)
    os.environ["TMPDIR"] = tempfile.tempdir = own.name
    return own
