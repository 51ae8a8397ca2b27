"""Small files in which the kernel tells of the board. ``root`` is the folder in place of ``/``."""

from __future__ import annotations

import glob
import os
import re


def read(root: str, path: str) -> str | None:
    """The text of a small file without the white space and NULs around it; ``None`` where it cannot be read."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            return file.read().decode("utf-8", "replace").strip("\0 \t\r\n") or None
    except OSError:
        return None


def read_int(root: str, path: str) -> int | None:
    """The whole number in a file; ``None`` where there is none."""
    text = read(root, path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def glob_files(root: str, pattern: str) -> list[str]:
    """The files and folders below ``root`` that fit ``pattern``, in order, by their paths from there."""
    paths = glob.glob(os.path.join(glob.escape(root), pattern))
    return sorted(os.path.relpath(path, root) for path in paths)
