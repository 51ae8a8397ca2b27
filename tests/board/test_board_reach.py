"""Reaching a device over SSH, and whatever may be wrong with the way there, its shell or its Python."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from board_machine import Board, free_port, mounted, wait_for

from edgesdk.core.errors import DeviceError, EdgeSdkError, StorageError
from edgesdk.devices import ssh
from edgesdk.devices.inventory import Device, add
from edgesdk.devices.reach import reach
from edgesdk.workflows.init import find_places

OLD_PYTHON = """#!/bin/sh
# As an interpreter from before 3.8 does with the agent's first lines.
echo "Python 3.6 is too old" >&2
exit 97
"""


def fails(device: Device, code: int = 6, seconds: float = 20.0) -> EdgeSdkError:
    """The error of asking ``device`` what it is: one line, a fact and a remedy."""
    with pytest.raises(EdgeSdkError) as raised, reach(device) as agent:
        agent.call("probe", timeout=seconds)
    error = raised.value
    assert error.exit_code == code, error
    assert "\n" not in str(error) and error.fact and error.remedy
    return error


def answers(board: Board, host: str = "board") -> dict:
    with reach(board.at(host)) as agent:
        return agent.call("probe", timeout=60)


@pytest.mark.parametrize("host", ["board", "inner"])  # inner is behind a jump
def test_the_users_own_ssh_configuration_is_honoured(board: Board, host: str) -> None:
    facts = answers(board, host)
    assert facts["runners"].keys() == {"onnxruntime"}
    assert "ai-edge-litert" in facts["wheels"]["litert"]


def test_boards_are_listed_to_begin_with_whether_they_answer_or_not(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "devices.toml"))
    add(board.at())
    add(replace(board.at("nowhere"), name="away", target="raspberry-pi-4"))
    away, there, *kinds = find_places()  # in the order of their names
    assert (there.name, there.device, there.said) == ("board", True, "of no kind that was said, answers")
    assert (away.name, away.device) == ("away", True) and away.said.startswith("raspberry-pi-4, does not answer: ")
    assert kinds and not any(place.device for place in kinds)


def test_nothing_of_edgesdk_and_no_torch_is_there(board: Board) -> None:
    for name in ("torch", "edgesdk", "edgesdk_targets", "onnx"):
        assert "ModuleNotFoundError" in board.run(board.python, "-c", f"import {name}").stderr


def test_an_agent_that_is_done_leaves_nothing(board: Board, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"content")
    with reach(board.at()) as agent:
        place = Path(agent.place(tmp_path / "sent"))
        assert place.read_bytes() == b"content"
        assert board.home in place.parents
        assert stat.S_IMODE(place.parents[1].stat().st_mode) == 0o700
    wait_for(lambda: not board.processes())
    assert not [path for path in board.tmp.iterdir() if path.name != "edgesdk-agent.lock"]


def test_two_hosts_at_once_have_folders_of_their_own(board: Board, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"content")
    with reach(board.at()) as first, reach(board.at()) as second:
        places = [Path(agent.place(tmp_path / "sent")) for agent in (first, second)]
        assert places[0] != places[1]
        assert all(place.read_bytes() == b"content" for place in places)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("stranger", "refuses the login"),
        ("unknown", "host key"),
        ("changed", "host key"),
        ("nowhere.invalid", "not known by that name"),
    ],
)
def test_a_host_that_does_not_let_the_user_in(board: Board, host: str, says: str) -> None:
    assert says in fails(board.at(host)).fact


def test_a_port_that_nobody_listens_on(board: Board) -> None:
    assert "does not answer" in fails(Device("b", f"ssh://127.0.0.1:{free_port()}")).fact


def test_a_host_that_takes_the_connection_and_says_nothing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "does not answer" in fails(Device("b", f"ssh://127.0.0.1:{silent.getsockname()[1]}"), seconds=60).fact


def test_no_ssh_client(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_SSH", str(board.folder / "no-such-program"))
    assert "cannot be started" in fails(board.at()).fact


def test_a_device_without_python(board: Board) -> None:
    board.profile("mkdir -p ~/bin && ln -sf /bin/sh ~/bin/sh && PATH=$HOME/bin")
    error = fails(board.at(python=None))
    assert "no such Python" in error.fact and "3.8" in error.remedy
    shutil.rmtree(board.home / "bin")


def test_a_python_that_is_named_and_not_there(board: Board) -> None:
    assert "no such Python" in fails(board.at(python="/no/such/python")).fact


def old_pythons() -> Iterator[str]:
    """Interpreters from before 3.8 that happen to be here."""
    folder = Path.home() / ".pyenv" / "versions"
    for path in [*folder.glob("2.7*/bin/python2.7"), *folder.glob("3.[67].*/bin/python3.[67]")]:
        yield str(path)


@pytest.mark.parametrize("python", ["a script that does as one", *old_pythons()])
def test_a_python_that_is_too_old(board: Board, python: str) -> None:
    if not os.path.isabs(python):
        stub = board.home / "python3.6"
        stub.write_text(OLD_PYTHON)
        stub.chmod(0o755)
        python = str(stub)
    error = fails(board.at(python=python))
    assert "is too old" in error.fact and "3.8" in error.remedy


def test_the_venv_of_the_account_is_taken_unless_one_is_named(board: Board) -> None:
    (board.home / ".edgesdk").mkdir()
    (board.home / ".edgesdk" / "venv").symlink_to(board.folder / "venv")
    try:
        with reach(board.at(python=None)) as agent:
            assert "onnxruntime" in agent.call("probe", timeout=60)["runners"]
    finally:
        shutil.rmtree(board.home / ".edgesdk")


def test_a_runtime_that_is_not_there_is_named_with_the_wheel_to_take(board: Board, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"\0\0\0\0TFL3")
    with reach(board.at()) as agent, pytest.raises(DeviceError, match="litert") as raised:
        agent.call("load", path=agent.place(tmp_path / "model.tflite"), runtime="litert", timeout=60)
    assert "pip install" in raised.value.remedy and "ai-edge-litert" in raised.value.remedy


def test_a_login_shell_that_greets(board: Board) -> None:
    board.profile("echo Welcome to the board; echo '{\"protocol\": 1}'; echo 3 updates >&2")
    assert answers(board)["cores"] >= 1


def test_a_login_shell_that_never_ends_to_greet(board: Board) -> None:
    board.profile("yes Welcome")
    assert "prints without end" in fails(board.at()).fact


def test_a_login_shell_that_ends_at_once(board: Board) -> None:
    board.profile("echo this account is not for people >&2; exit 1")
    assert "not for people" in fails(board.at()).fact


def test_a_python_that_greets(board: Board) -> None:
    board.fault("print", text="loading the sites' own modules\n")
    assert answers(board)["cores"] >= 1


NONSENSE = (
    "hello\n",
    "[1, 2]\n",
    '{"protocol": 1, "id": 1}\n',
    '{"protocol": 1, "id": 1, "result": 7}\n',
    '{"protocol": 2, "id": 1, "result": {}}\n',
    '{"protocol": 1, "id": 9, "result": {}}\n',
    "\x00\xff\n",
    "{" * 100_000 + "\n",  # no parser goes as deep
)


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_answers_that_are_none(board: Board, text: str) -> None:
    board.fault("print", text="edgesdk agent ready\n" + text)
    assert "sent" in fails(board.at()).fact


def test_an_agent_that_never_answers(board: Board) -> None:
    board.fault("silent")
    assert "took over" in fails(board.at(), seconds=2).fact


# Run by a Python of its own, so that its memory can be told.
PROBING = """
import resource, sys
from edgesdk.core.errors import DeviceError
from edgesdk.devices import ssh
from edgesdk.devices.inventory import Device, add
from edgesdk.devices.reach import reach
from edgesdk.workflows.init import find_places
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with reach(Device("b", "ssh://board", python=sys.argv[1])) as agent:
        agent.call("probe", timeout=100)
except DeviceError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.parametrize("ready", [False, True], ids=["before it is ready", "as an answer"])
@pytest.mark.parametrize("line", [0, 100, 1 << 20], ids=["without a line's end", "in lines", "in long lines"])
def test_a_gigabyte_of_output_neither_fills_nor_stops_the_host(board: Board, line: int, ready: bool) -> None:
    board.fault("flood", bytes=1 << 30, line=line, text="edgesdk agent ready\n" if ready else "")
    command = [sys.executable, "-c", PROBING, str(board.python)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    grown, _, said = done.stdout.strip().partition(" ")
    assert said and "\n" not in said
    assert int(grown) < 300_000  # kB
    wait_for(lambda: not board.processes())


def test_a_flood_on_stderr_changes_nothing(board: Board) -> None:
    board.profile("head -c 30000000 /dev/zero | tr '\\0' x >&2; yes error | head -c 30000000 >&2")
    assert answers(board)["cores"] >= 1


def test_a_connection_that_ended_without_a_word_is_made_again(board: Board) -> None:
    answers(board)
    board.down()
    assert board.shared_connections()
    board.cut()
    assert "does not answer" in fails(board.at()).fact
    board.up()
    assert answers(board)["cores"] >= 1


def test_a_long_temporary_folder_on_the_host(board: Board, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    command = [
        sys.executable,
        "-c",
        PROBING.replace("agent.call", "print(agent.call").replace("=100)", "=100)['cores'])"),
    ]
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run([*command, str(board.python)], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.strip().isdigit(), done.stdout + done.stderr


def test_a_device_whose_disk_for_temporary_files_is_full(board: Board, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    with mounted(board.home / "small", "1m"):
        board.profile("export TMPDIR=$HOME/small")
        with pytest.raises(StorageError) as raised, reach(board.at()) as agent:
            agent.place(tmp_path / "large")
        assert "No space left" in raised.value.fact
        wait_for(lambda: not board.processes())
        assert list((board.home / "small").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "..", ".", "", "a//b", "a\\b", ".x", "a/.x", "a\0b", "a/b/c/d/e", "a/"]
)
def test_what_is_sent_cannot_be_put_elsewhere(board: Board, name: str) -> None:
    before = set(board.home.rglob("*"))
    with reach(board.at()) as agent, pytest.raises(DeviceError, match="no name"):
        agent.call("put", name=name, data="", timeout=60)
    wait_for(lambda: not board.processes())
    assert set(board.home.rglob("*")) == before


def test_a_file_that_is_damaged_on_its_way_is_refused(board: Board, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"content")
    board.fault("digest")
    with reach(board.at()) as agent, pytest.raises(DeviceError, match="arrived damaged"):
        agent.place(tmp_path / "sent")
    assert board.fired
