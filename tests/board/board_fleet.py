"""Several boards over SSH at once: each has a server, a home folder and a name of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import board_machine
import pytest
from board_machine import ROOT, Board, wait_for

from edgesdk.devices.inventory import Device
from edgesdk.devices.pools import Pool

CLIENT = """
Host {name}
    HostName 127.0.0.1
    HostKeyAlias board
    Port {port}
    IdentityFile {folder}/key
    User {user}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""


@dataclass
class Fleet:
    """Boards by name, as ``ssh://NAME``, and the ``folder`` that the host has its configuration and sockets in."""

    folder: Path
    boards: dict[str, Board]

    def __getitem__(self, name: str) -> Board:
        return self.boards[name]

    def device(self, name: str) -> Device:
        """One of them as a device that the host knows."""
        return self[name].at(name=name, host=name, install_root=f"~/{ROOT}")

    @property
    def pool(self) -> Pool:
        return Pool("pool:fleet", tuple(map(self.device, self.boards)))

    def runs(self) -> dict[str, str]:
        """What each runs, the first of them by running it as a user would."""
        first = next(iter(self.boards.values()))
        assert first.runs() == (first.root / "current").resolve().name
        return {name: (board.root / "current").resolve().name for name, board in self.boards.items()}

    def gone(self, name: str) -> None:
        """The board loses its network: its server stops, and so does every connection to it."""
        board = self[name]
        sessions = board.sessions()
        board.down()
        for number in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def sound(self) -> None:
        """Every board is up, nothing fails, and nothing is installed or running."""
        for board in self.boards.values():
            if board.server is None:
                board.up()
            board.mend()
            shutil.rmtree(board.root, ignore_errors=True)


def reached(fleet: Fleet, patch: pytest.MonkeyPatch) -> None:
    """This process and those that it starts take the fleet's configuration."""
    patch.setenv("EDGESDK_SSH", f"ssh -F {fleet.folder / 'client'}")
    patch.setenv("TMPDIR", str(fleet.folder))
    patch.setattr(tempfile, "tempdir", str(fleet.folder))


@contextlib.contextmanager
def fleet(folder: Path, python: Path, names: tuple[str, ...]) -> Iterator[Fleet]:
    """Boards of those ``names`` below ``folder``, with the packages of the environment ``python``; all up."""
    boards: dict[str, Board] = {}
    try:
        for name in names:
            (folder / name).mkdir()
            boards[name] = board_machine.make(folder / name, python)
            boards[name].up()
        told = (
            CLIENT.format(name=name, port=board.port, folder=board.folder, user=getpass.getuser())
            for name, board in boards.items()
        )
        (folder / "client").write_text("".join(told))
        yield Fleet(folder, boards)
    finally:
        for board in boards.values():
            board.mend()
            board.down()
        board_machine.end_clients(folder)


@contextlib.contextmanager
def meanwhile(condition: Callable[[], bool], work: Callable[[], None]) -> Iterator[None]:
    """As soon as ``condition()`` holds, ``work`` is done in another thread."""

    def watch() -> None:
        wait_for(condition)
        work()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()
