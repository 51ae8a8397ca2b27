"""Errors that nobody foresaw: one line for the user, a file for a maintainer, an exit code of their own."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from datetime import datetime
from importlib import metadata
from pathlib import Path

from edgesdk.core.asked import without_passwords
from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import EdgeSdkError, StorageError, UnexpectedError

PACKAGES = (
    "edgesdk", "torch", "torch-pruning", "numpy", "highspy", "onnx", "onnxscript", "onnxruntime", "openvino",
    "ai-edge-litert", "safetensors", "click", "rich",
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
STARVED = ("can't allocate memory", "not enough memory", "std::bad_alloc", "Failed to allocate memory")


def explained(error: Exception, command: str, stage: str | None) -> EdgeSdkError:
    """What a user is told of ``error``, which ended ``command`` at ``stage``.

    A machine that is out of memory or disk is said to be that. For anything else a file is written.
    """
    during = f" while {stage}" if stage else ""
    reason = _line(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in STARVED):
        remedy = "free some, or give a smaller model or fewer samples at once"
        return EdgeSdkError(f"memory ran out in {command}{during}", remedy)
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" ({error.filename})" if error.filename else ""
        return StorageError(f"{error.strerror}{where} in {command}{during}", "free some space or choose another place")
    place = _place_of_user(error)
    fact = f"{command} met an error that it does not know{during} ({reason}{place})"
    path = _noted(error, command, stage)
    if path is None:
        return UnexpectedError(fact, "nowhere could a file with the details be written: set EDGESDK_CACHE to a folder")
    return UnexpectedError(fact, f"what a maintainer needs, without data or weights, is in {path}")


def _line(error: Exception) -> str:
    """The kind of ``error`` and its first line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _place_of_user(error: Exception) -> str:
    """Where the innermost line of the user's own code is that was running, if any was."""
    libraries = {str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix)}
    ours = str(Path(__file__).resolve().parents[2])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = str(Path(frame.filename).resolve())
        if Path(path).is_file() and not path.startswith((ours, *libraries)):
            return f", in {Path(path).name} line {frame.lineno}, {frame.name}"
    return ""


def _noted(error: Exception, command: str, stage: str | None) -> Path | None:
    """The file that was written: traceback, versions, command line and platform. ``None`` where none could be."""
    now = datetime.now().astimezone()
    content = without_passwords("\n".join([
        f"edgesdk, {command}, {stage or 'no stage'}, {now.isoformat(timespec='seconds')}",
        f"command: {shlex.join(sys.argv)}",
        f"platform: {platform.platform()}, Python {platform.python_version()}",
        f"versions: {', '.join(f'{name} {_version(name)}' for name in PACKAGES)}",
        "",
        *traceback.format_exception(type(error), error, error.__traceback__),
    ]))  # fmt: skip
    name = f"edgesdk-error-{now:%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in (cache_folder() / "errors", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
            return folder / name
        except OSError:
            continue
    return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
