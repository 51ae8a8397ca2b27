"""Folders for what a command writes on its way: gone with it, or with the next one where it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PREFIX, LOCK = "edgesdk-scratch-", ".lock"
YOUNG_SECONDS = 60.0  # in which a folder may still be without its lock


@contextmanager
def scratch_folder() -> Generator[Path]:
    """A folder that is there until the end of the block.

    Its lock is held as long as this process lives, so that those of processes that were killed are known by that: they
    are removed first.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        with _held(folder):
            yield folder


def sweep() -> list[Path]:
    """Remove the folders of this user's processes that were killed; which these were."""
    removed: list[Path] = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # its process lives, or another one is removing it
            status = folder.lstat()
            if status.st_uid != os.geteuid() or abs(time.time() - status.st_mtime) < YOUNG_SECONDS:
                continue
            with _held(folder):
                shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


@contextmanager
def _held(folder: Path) -> Generator[None]:
    """Hold the lock of ``folder``. Raises ``OSError`` where another process does."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
