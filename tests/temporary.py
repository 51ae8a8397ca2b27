"""Temporary folders that outlive no run of the tests: what a killed one left goes when the next one starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with the number of this process in its name; those of processes that are gone are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}-*-*"):
        number = left.name.removeprefix(f"{prefix}-").partition("-")[0]
        if number.isdigit() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{prefix}-{os.getpid()}-")
