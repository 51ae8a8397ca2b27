"""`edgesdk init`: what it finds, what it asks at a terminal, and what it writes."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
from pathlib import Path

import pytest
from running import Run

from edgesdk.cli.project import read_project
from edgesdk.workflows.init import find_alike, find_data, find_models, find_weights

NET = """
import torch
from torch import nn

raise SystemExit("nothing of it may be run")


class Net(nn.Module):
    def __init__(self, width=8, *, deep=False):
        super().__init__()


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()


class Narrow(Block):
    pass


def make():
    return Block(3)


def typed(width: int = 3) -> nn.Module: ...


def needs(width) -> nn.Module: ...


def other():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "no-devices.toml"))
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test_net.py").write_text(NET)
    for name in ("model.onnx", "data.npz", "net.safetensors", ".hidden.npz"):
        (tmp_path / name).touch()
    for name in ("images/cat/1.png", "images/dog/1.JPG", "notes/a/b.txt", "notes/c/d.txt", "one/class/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return tmp_path


def test_what_is_there_is_found_and_nothing_is_run(folder: Path) -> None:
    made = ["net.py:make", "net.py:typed", "net.py:Net", "net.py:Narrow"]
    assert find_models(folder) == ["model.onnx", *made]
    assert find_data(folder) == ["data.npz", "images"]
    assert find_weights(folder) == ["net.safetensors"]


def test_flags_answer_and_the_file_is_what_deploy_reads(folder: Path, edgesdk: Run) -> None:
    os.chdir(folder)
    (folder / "d 'x' \"y\".npz").touch()
    flags = ("--data", "d 'x' \"y\".npz", "--target", "pi4", "--size", "20kB", "--energy", "5mJ", "--max-drop", "1.5")
    done = edgesdk("init", "model.onnx", *flags)
    assert done.code == 0, done.err
    assert read_project(folder / "edgesdk.toml") == {
        "model": "model.onnx", "data": "d 'x' \"y\".npz", "target": "pi4", "size": "20kB", "energy": "5mJ",
        "max_drop": 1.5,
    }  # fmt: skip
    assert (folder / "edgesdk.toml").read_text() in done.out
    assert (
        "edgesdk.toml exists: give --force to replace it, or another folder"
        in edgesdk("init", "model.onnx", *flags).line
    )


def test_a_pool_is_a_board_that_a_project_has(folder: Path, edgesdk: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chdir(folder)
    monkeypatch.setenv("EDGESDK_DEVICES", str(folder / "devices.toml"))
    for name in ("one", "two"):
        assert edgesdk("device", "add", name, f"ssh://{name}", "--target", "pi4").code == 0
    assert edgesdk("device", "pool", "lab", "one", "two").code == 0
    how = ("model.onnx", "--data", "data.npz", "--latency", "0.5x")
    assert "'pool:lap'" in edgesdk("init", *how, "--device", "pool:lap").line
    assert edgesdk("init", *how, "--device", "pool:lab").code == 0
    assert read_project(folder / "edgesdk.toml")["device"] == "pool:lab"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "no answer to 'which model' (found: model.onnx, net.py:make"),
        (("net.py:make",), "no answer to 'with which data' (found: data.npz, images): give --data"),
        (("modle.onnx",), "there is no file 'modle.onnx': name an .onnx or .pt2 file"),
        (("model.onnx", "--data", "dta.npz"), "there is no file 'dta.npz': name a file or a folder"),
        (("net.py:make", "--data", "data.npz", "--weights", "net.pt"), "there is no file 'net.pt'"),
        (("model.onnx", "--data", "data.npz", "--target", "pi77"), "there is no target 'pi77'"),
        (("model.onnx", "--data", "data.npz", "--device", "lab-9"), "lab-9"),
        (("model.onnx", "--data", "data.npz", "--target", "pi4"), "no answer to 'latency of at most'"),
        (("model.onnx", "--data", "data.npz", "--target", "pi4", "--energy", "lots"), "write it like 200mJ"),
        (("model.onnx", "--data", "data.npz", "--target", "pi4", "--latency", "fast"), "--latency"),
    ],
)
def test_where_nobody_answers_it_says_what_was_found(
    folder: Path, edgesdk: Run, flags: tuple[str, ...], says: str
) -> None:
    os.chdir(folder)
    done = edgesdk("init", *flags)
    assert done.code == 2 and says in done.line and not (folder / "edgesdk.toml").exists()


def asked(answers: list[str]) -> tuple[int, str]:
    """How `edgesdk init` ends at a terminal where the questions get these answers, and what it showed there."""
    left = iter(answers)
    process, terminal = pty.fork()
    if process == 0:
        os.execvp(sys.executable, [sys.executable, "-m", "edgesdk.cli", "init"])
    said = ""
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 4096).decode()
        except OSError:  # as a terminal ends on Linux
            break
        said += part
        if re.search(r"\?( \[.*\])?: $", said) and not said.endswith("\n"):
            os.write(terminal, f"{next(left, chr(4))}\n".encode())
            said += "\n"
    assert next(left, None) is None, said
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def test_questions_at_a_terminal_are_answered_by_number_name_or_enter(folder: Path) -> None:
    code, said = asked(["2", "images", "", "raspberry-pi-5", "3ms"])
    assert code == 0, said
    assert "raspberry-pi-5  (Raspberry Pi 5: predicted without a device)" in said
    assert read_project(folder / "edgesdk.toml") == {
        "model": "net.py:make", "weights": "net.safetensors", "data": "images", "target": "raspberry-pi-5",
        "latency": "3ms",
    }  # fmt: skip


def test_a_wrong_answer_at_a_terminal_is_told_and_asked_for_again(folder: Path) -> None:
    wrong = {
        "which model": ["77", "nett.py:Net", "no_such_package.net:Net", "gone.onnx"],
        "with which data": ["dat.npz", " "],
        "with which weights": ["no.safetensors"],
        "on which board": ["pi77", "99", "pool:lab", "ssh://"],
        "latency of at most": ["fast", "-1ms", "3"],
    }
    right = ["net.py:Narrow", "1", "none", "pi4", "2ms"]
    code, said = asked([each for (_, bad), good in zip(wrong.items(), right, strict=True) for each in (*bad, good)])
    assert code == 0, said
    for question, answers in wrong.items():
        assert said.count(f"{question}?") == len(answers) + 1
    for words in (
        "no file '77'", "no file 'nett.py'", "no module 'no_such_package.net'", "no file 'gone.onnx'", "no file 'dat",
        "no file 'no.safe", "no target 'pi77'", "no target '99'", "'pool:lab'", "write it like 2ms",
        "no answer, and none stands for it",
    ):  # fmt: skip
        assert words in said
    assert read_project(folder / "edgesdk.toml") == {
        "model": "net.py:Narrow", "data": "data.npz", "target": "pi4", "latency": "2ms"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("board", "kind"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("Some other board", None),
        (None, None),
    ],
)
def test_a_board_is_of_the_kind_that_it_says_it_is(board: str | None, kind: str | None) -> None:
    assert find_alike({"board": board, "architecture": "aarch64"}) == kind
