"""The tests' processes reach nothing but this machine: every page and command works without a network."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Any

HERE = ("localhost", "127.", "::1", "0.0.0.0", "::ffff:127.")  # what an address of this machine begins with
EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.sendto")


def is_here(host: Any) -> bool:
    """Whether that names this machine; so does a path, and nothing at all."""
    if isinstance(host, (bytes, bytearray)):
        host = host.decode(errors="replace")
    return not host or not isinstance(host, str) or host.startswith((*HERE, "/", "\0")) or host == socket.gethostname()


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise ``OSError``, as a machine without a network does, for what would leave this one."""
    if event not in EVENTS:
        return
    address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    host = address[0] if isinstance(address, tuple) else address
    if not is_here(host):
        raise OSError(errno.ENETUNREACH, f"{os.strerror(errno.ENETUNREACH)}: {host!r}, and no test may reach it")


def install() -> None:
    """Have this process reach this machine alone, for as long as it lives."""
    sys.addaudithook(refuse)
