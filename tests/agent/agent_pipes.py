"""The pipes of a process that a test talks to."""

from __future__ import annotations

import subprocess
from typing import IO


def reader(process: subprocess.Popen) -> IO[bytes]:
    """Where what ``process`` writes is read."""
    assert process.stdout is not None
    return process.stdout


def writer(process: subprocess.Popen) -> IO[bytes]:
    """Where what ``process`` reads is written."""
    assert process.stdin is not None
    return process.stdin


def say(process: subprocess.Popen, line: bytes) -> None:
    """Send ``line`` to ``process`` at once."""
    writer(process).write(line)
    writer(process).flush()
