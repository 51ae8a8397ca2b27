"""A device over ssh: the user's own OpenSSH client, with the user's configuration, keys and jump hosts."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from edgesdk.core.errors import DeviceError, EdgeSdkError
from edgesdk.devices.agent import Child
from edgesdk.devices.archive import agent_archive
from edgesdk.devices.sent import SentAgent, program

FAILED, NOT_FOUND, NOT_EXECUTABLE = 255, 127, 126  # of ssh itself; of the shell there
CONNECT_SECONDS = 10
ALIVE_SECONDS, ALIVE_COUNT = 5, 3  # after their product a connection that says nothing is lost
PERSIST_SECONDS = 60
SOCKET_BYTES = 48  # 107 are a socket's; a digest of 40 and 17 that the client puts behind it for a moment
# What the client says, in the order in which to look for it, and what that means to a user.
REASONS = (
    ("permission denied", "refuses the login", "put your public key there: ssh-copy-id {host}"),
    ("host key verification failed", "has another host key than is known, or an unknown one", "run once: ssh {host}"),
    ("could not resolve", "is not known by that name", "check the address"),
    ("connection refused", "does not answer", "check the address and that sshd runs there"),
    ("timed out", "does not answer", "check that it is on and in reach"),
    ("no route to host", "does not answer", "check that it is on and in reach"),
)


class SshDevice(SentAgent):
    """The device at ``address``, ``ssh://user@host:port``; ``python`` is its interpreter.

    Without one it is ``~/.edgesdk/venv/bin/python`` there where that exists, else ``python3``. ``EDGESDK_SSH`` takes
    the place of ``ssh``, and may have options. Nothing is asked for: a key or an agent must let the user in. The
    connection is shared by what comes within a minute.
    """

    def __init__(self, address: str, python: str | None = None) -> None:
        parts = urlsplit(address)
        self.host: str = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
        port = ("-p", str(parts.port)) if parts.port else ()
        client = shlex.split(os.environ.get("EDGESDK_SSH") or "ssh")
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_SECONDS,
            "ServerAliveInterval": ALIVE_SECONDS,
            "ServerAliveCountMax": ALIVE_COUNT,
            "ControlMaster": "auto",
            "ControlPath": _socket(),
            "ControlPersist": PERSIST_SECONDS,
        }
        options = [f"-o{name}={value}" for name, value in settings.items()]
        command = (*client, "-T", *options, *port, "--", self.host, _remote(python))
        super().__init__(command, None, parts.hostname or address)

    def death(self, child: Child) -> EdgeSdkError:
        code, last = child.exit_code(), child.last_words()
        if code == FAILED:
            said = " ".join(child.errors).lower()
            for words, fact, remedy in REASONS:
                if words in said:
                    return DeviceError(f"{self.where} {fact} ({last})", remedy.format(host=self.host))
            fact = f"the connection to {self.where} was lost ({last or 'ssh says nothing'})"
            return DeviceError(fact, "nothing there is half done; try again")
        if code in (NOT_FOUND, NOT_EXECUTABLE):
            remedy = "install Python 3.8 or newer there, or name it: edgesdk device add --python"
            return DeviceError(f"{self.where} has no such Python ({last})", remedy)
        return super().death(child)


def _remote(python: str | None) -> str:
    """The line for the login shell there, whichever it is: one quoted argument of ``sh``."""
    arguments = [f'"{word}"' for word in program(agent_archive())]
    if python:
        script = f'p="$HOME/{python[2:]}"' if python.startswith("~/") else f'p="{python}"'
    else:
        script = 'p="$HOME/.edgesdk/venv/bin/python"; [ -x "$p" ] || p=python3'
    # Not exec: of what the shell started, ssh tells by which signal it died; of what it became, nothing.
    return shlex.join(["sh", "-c", f'{script}; "$p" {" ".join(arguments)}; exit $?'])


def _socket() -> str:
    """Where a shared connection has its socket, in a folder of the user's own; ``none`` where no path is so short."""
    folder = Path(tempfile.gettempdir()) / f"edgesdk-ssh-{os.getuid()}"
    if len(str(folder)) > SOCKET_BYTES:
        return "none"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise DeviceError(f"{folder} is not yours", "remove it, or set TMPDIR")
    return str(folder / "%C")
