"""One measurement at a time per device, one installation per root. The kernel releases the lock of a dead holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from typing import Iterator

from edgesdk_targets.agent.protocol import BUSY, AgentError, Report

NAME = "edgesdk-agent.lock"
SECONDS = 600.0
POLL_SECONDS, REPORT_SECONDS = 0.2, 5.0


@contextlib.contextmanager
def device_lock(report: Report, seconds: float = SECONDS) -> Iterator[None]:
    """Hold the device, waiting for it up to ``seconds`` with a progress message now and then.

    Raises ``AgentError`` of kind ``busy`` where another measurement still holds it then.
    """
    path = os.path.join(tempfile.gettempdir(), NAME)
    with file_lock(report, path, "another measurement has held this device", seconds):
        yield


@contextlib.contextmanager
def file_lock(report: Report, path: str, held: str, seconds: float = SECONDS) -> Iterator[None]:
    """Hold the lock at ``path``, waiting as for the device; ``held`` begins the sentence that says why in vain."""
    descriptor = _open(path)
    try:
        _acquire(descriptor, report, held, seconds)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing it alone leaves it to what a library forked meanwhile
        os.close(descriptor)


def _acquire(descriptor: int, report: Report, held: str, seconds: float) -> None:
    begin = time.monotonic()
    reported = -REPORT_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - begin
        if waited >= seconds:
            fact = f"{held} for {waited:.0f} s"
            raise AgentError(BUSY, fact, "wait until it is done, or give a longer lock_seconds")
        if waited - reported >= REPORT_SECONDS:
            report({"done": round(waited, 1), "of": seconds, "state": "waiting"})
            reported = waited
        time.sleep(min(POLL_SECONDS, seconds - waited))


def _open(path: str) -> int:
    # Reading is enough for flock, and opening another user's file in a sticky folder with O_CREAT is refused where
    # fs.protected_regular is set: create it only where it is not there.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(10):
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        os.fchmod(descriptor, 0o644)  # whatever the umask says: other users must be able to open it
        return descriptor
    raise AgentError(BUSY, f"{path} comes and goes", "find out what removes it")
