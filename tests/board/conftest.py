"""A board over SSH for the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import board_machine
import pytest
import temporary
from board_bundles import bundle
from board_fleet import Fleet, fleet
from board_fleet import reached as reach_fleet
from board_machine import ROOT, Board, reached

from edgesdk.cli import main
from edgesdk.devices.inventory import add
from edgesdk.devices.pools import add_pool
from edgesdk.workflows.install import install


@pytest.fixture(scope="session")
def whole_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """The board of all tests here. Removed at the end, as it is large."""
    if board_machine.SSHD is None:
        pytest.skip("openssh-server is not installed")
    tmp_path_factory.getbasetemp()  # before the folder for temporary files is another
    with temporary.folder("edb") as folder:  # short, as sockets are in it
        board = board_machine.make(Path(folder))
        board.up()
        try:
            yield board
        finally:
            board.mend()
            board.down()
            board.cut()


@pytest.fixture
def board(whole_board: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """The board, sound and with nothing installed before and after, reached by ``ssh://board``."""
    reached(whole_board, monkeypatch)
    yield whole_board
    whole_board.mend()
    shutil.rmtree(whole_board.root, ignore_errors=True)


@pytest.fixture(scope="session")
def whole_fleet(whole_board: Board) -> Iterator[Fleet]:
    """Three more boards, of all tests with several at once: they share the packages of the first."""
    with temporary.folder("edf") as folder, fleet(Path(folder), whole_board.folder / "venv", ("a", "b", "c")) as made:
        yield made


@pytest.fixture
def three(whole_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Three boards, sound and with nothing installed before and after."""
    reach_fleet(whole_fleet, monkeypatch)
    yield whole_fleet
    whole_fleet.sound()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Versions of a bundle by their number, each newer than the one before. The third is sent in several pieces."""
    folder = tmp_path_factory.mktemp("bundles")
    for number in range(1, 5):
        bundle(folder / str(number), number, bytes_more=2_500_000 if number == 3 else 0)
    return lambda number: folder / str(number)


@pytest.fixture(scope="session")
def two_installed(whole_board: Board, bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is at the root after versions 1 and 2 were installed, kept elsewhere."""
    kept = tmp_path_factory.mktemp("kept") / ROOT
    with pytest.MonkeyPatch.context() as patch:
        reached(whole_board, patch)
        for number in (1, 2):
            install(bundles(number), whole_board.at(), install_root=f"~/{ROOT}")
    shutil.move(whole_board.root, kept)
    return kept


@pytest.fixture
def installed(board: Board, two_installed: Path) -> Board:
    """The board with version 2 running and version 1 before it."""
    shutil.copytree(two_installed, board.root, symlinks=True)
    return board


@pytest.fixture
def edgesdk(three: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Callable[..., str]:
    """Run the command in this process, with the three boards as ``pool:lab``; what it prints."""
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    for name in three.boards:
        add(replace(three.device(name), target="x86"))
    add_pool("lab", ["a", "b", "c"])

    def run(*arguments: str | Path, code: int = 0) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main([*map(str, arguments)], prog_name="edgesdk")
        printed = capfd.readouterr()
        assert ended.value.code == code, printed.err
        return printed.out or printed.err

    return run
