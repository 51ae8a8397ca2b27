"""The agent's own folder for what the host sends. It is removed with the agent, or by the next one where this one dies.

Its lock is held as long as the agent lives, so that a dead agent's folder is known by that and not by a process number,
which another process may have by then.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import contextlib
import fcntl
import functools
import glob
import os
import shutil
import stat
import tempfile
import time
from typing import Any

from edgesdk_targets.agent import files
from edgesdk_targets.agent.protocol import FAILED, STORAGE, USAGE, AgentError, Report

PREFIX, LOCK = "edgesdk-agent-", ".lock"
YOUNG_SECONDS = 60.0  # in which a folder may still be without its lock
PARTS = 4


def put(report: Report, *, name: str, data: str, offset: int = 0, sha256: str | None = None) -> dict[str, Any]:
    """Write ``data``, in base64, at ``offset`` of the file ``name`` in this agent's folder.

    ``name`` has up to four plain parts, joined by ``/``. ``offset`` is the file's present size; 0 begins it anew. With
    ``sha256``, which comes with the last piece, the digest of the whole file must be that, or the file is removed.
    Returns its ``path`` and its ``bytes`` so far. Raises ``AgentError``, of kind ``storage`` where there is no space.
    """
    parts = _parts(name)
    try:
        content = base64.b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise AgentError(USAGE, f"the data of {name} is not in base64", "encode it") from None
    path = os.path.join(folder(), *parts)
    try:
        size = _append(path, content, offset)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise AgentError(USAGE, f"{name} is a file in one place and a folder in another", "name it otherwise") from None
    except OSError as error:
        _forget(path)
        fact = f"cannot write {path} on this device: {error.strerror}"
        raise AgentError(STORAGE, fact, "free some space there, or set TMPDIR to a folder with more") from None
    if sha256 is not None and files.digest_of(path) != sha256:
        _forget(path)
        raise AgentError(FAILED, f"{name} arrived damaged: its SHA-256 is another", "send it again")
    return {"path": path, "bytes": size}


def drop(report: Report, *, name: str) -> dict[str, Any]:
    """Remove what was sent under the first part of ``name``. Returns whether anything was there, ``removed``."""
    path = os.path.join(folder(), _parts(name)[0])
    there = os.path.exists(path)
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        _forget(path)
    return {"removed": there}


@functools.lru_cache(maxsize=None)
def folder() -> str:
    """This agent's folder, made at the first call; folders of dead agents are removed then. Raises ``AgentError``."""
    sweep()
    try:
        while True:
            path = tempfile.mkdtemp(prefix=PREFIX)
            if _hold(path):
                break
    except OSError as error:
        fact = f"cannot make a folder in {tempfile.gettempdir()} on this device: {error.strerror}"
        raise AgentError(STORAGE, fact, "free some space there, or set TMPDIR to a folder with more") from None
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def sweep() -> list[str]:
    """Remove the folders that dead agents of this user left behind. Returns their paths.

    One without a lock may be another agent's that has only begun, and is left alone while it is young.
    """
    removed = []
    for path in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), PREFIX + "*")):
        try:
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            is_young = abs(time.time() - status.st_mtime) < YOUNG_SECONDS
            if is_young and not os.path.exists(os.path.join(path, LOCK)):
                continue
            descriptor = _locked(path)
        except OSError:  # its agent lives, or another one is removing it
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
        removed.append(path)
    return removed


def _parts(name: str) -> list[str]:
    parts = name.split("/") if isinstance(name, str) else []
    if not 1 <= len(parts) <= PARTS or not all(map(files.is_plain, parts)):
        fact = f"{str(name)[:80]!r} is no name for a file that is sent"
        raise AgentError(USAGE, fact, f"give up to {PARTS} plain parts, joined by /")
    return parts


def _hold(path: str) -> bool:
    """Hold the lock of the new folder ``path`` for good; false where another agent swept it before that."""
    try:
        descriptor = _locked(path)
        if os.path.samestat(os.fstat(descriptor), os.stat(os.path.join(path, LOCK))):
            return True
    except (BlockingIOError, FileNotFoundError):
        return False
    os.close(descriptor)
    return False


def _locked(path: str) -> int:
    """A descriptor that holds the lock of the folder ``path``. Raises ``BlockingIOError`` where another one does."""
    descriptor = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _append(path: str, content: bytes, offset: int) -> int:
    """Write ``content`` behind the first ``offset`` bytes of the file, which are all it has. Returns its new size."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "ab" if offset else "wb") as file:
        if file.tell() != offset:
            fact = f"{os.path.basename(path)} has {file.tell()} bytes, and the piece begins at {offset!r}"
            raise AgentError(USAGE, fact, "send the pieces in their order, from 0 on")
        file.write(content)
        file.flush()
        return file.tell()


def _forget(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)
