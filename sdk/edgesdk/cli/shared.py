"""What the commands share beside their frame."""

from __future__ import annotations

import os
from pathlib import Path

from edgesdk.core.errors import BundleError, StorageError


def free(out: Path, force: bool, other: str = "another --out") -> Path:
    """``out``, where nothing is, or what is there may be replaced; ``other`` is what may be given instead."""
    if out.exists() and not force:
        raise BundleError(f"{out} exists", f"give --force to replace it, or {other}")
    return out


def check_place(path: Path | None) -> None:
    """Raise ``StorageError`` where ``path`` cannot be written, before anything long begins."""
    if path is None:
        return
    folder = path.parent
    while not folder.exists() and folder != folder.parent:  # it is made where it is written
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise StorageError(f"{path} cannot be written", "name a file in a folder that is yours")


def add_text(path: Path, text: str) -> None:
    """Append ``text`` to the file at ``path``. Raises ``StorageError``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror})", "free some space, or name another") from None
