"""TensorRT on a board over SSH, a stand-in for trtexec: what is sent there, what it builds, and that nothing stays."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board_machine import Board

from edgesdk.core.errors import DeviceError
from edgesdk.devices.inventory import Device
from edgesdk.workflows.benchmark import benchmark

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))  # whose tests run under other Pythons, by themselves
agent_trtexec: Any = importlib.import_module("agent_trtexec")


@pytest.fixture
def jetson(board: Board) -> Iterator[Callable[..., Device]]:
    """The board with a version of ``trtexec``, by an interpreter that knows where it is."""
    folder = board.home / "tensorrt"

    def has(version: str, **more: Any) -> Device:
        program = agent_trtexec.write(folder / "trtexec", version, log=folder / "log", **more)
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexport EDGESDK_TRTEXEC={program}\nexec {board.python} "$@"\n')
        python.chmod(0o755)
        return board.at(python=str(python))

    yield has
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def model(bundles: Callable[[int], Path], tmp_path: Path) -> Path:
    """A model with the file beside it that TensorRT 11 takes in its place."""
    for name in ("model.onnx", "model-fp16.onnx"):
        shutil.copy(bundles(1) / "model.onnx", tmp_path / name)
    return tmp_path / "model.onnx"


def list_built(board: Board) -> list[str]:
    lines = (board.home / "tensorrt" / "log").read_text().splitlines()
    options = [option for line in lines for option in json.loads(line)]
    return [option.partition("=")[2] for option in options if option.startswith("--onnx=")]


@pytest.mark.parametrize(
    ("version", "told", "name"), [("8.5", "8.5.2", "model.onnx"), ("11", "11.4.1", "model-fp16.onnx")]
)
def test_each_version_is_given_its_file(
    board: Board, jetson: Callable[..., Device], model: Path, version: str, told: str, name: str
) -> None:
    (report,) = benchmark(model, runtime="tensorrt", mode="brief", device=jetson(version)).reports
    assert (report.runtime, report.runtime_version, report.load_ms) == ("tensorrt", told, 12.3)
    assert report.statistics.count >= 64 and report.undisturbed is None
    built = list_built(board)
    assert [Path(path).name for path in built] == [name]  # once: fresh processes take the engine that is there
    assert not Path(built[0]).exists() and not list(board.tmp.glob("edgesdk-*/engines"))


def test_what_goes_wrong_there_is_one_line(board: Board, jetson: Callable[..., Device], model: Path) -> None:
    for version, fault, said in (
        ("120000", "none", "use TensorRT 8.5, 8.6, 10 or 11"),
        ("10", "no memory", "end what else uses the board's memory"),
        ("10", "other times", "wrote its times in a format that edgesdk does not know"),
    ):
        with pytest.raises(DeviceError, match=said):
            benchmark(model, runtime="tensorrt", mode="brief", device=jetson(version, fault=fault))
    assert not list(board.tmp.glob("edgesdk-*/engines"))
