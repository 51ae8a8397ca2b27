"""How many instructions a processor runs for an inference. It knows no cache and no clock: it is no time."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from emulation import HERE, Board, runner
from on_board import RUNS

QEMU = range(6, 9)  # the major versions whose interface for plugins the counter knows


def needs_plugins() -> None:
    """Skip where the emulator is too new for the counter."""
    told = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)", told)
    if version is None or int(version[1]) not in QEMU:
        pytest.skip(f"no instructions are counted: they need QEMU {QEMU[0]} to {QEMU[-1]}, and here is {told.strip()}")


def build_plugin(folder: Path) -> Path:
    """The counter, which the emulator loads, in ``folder``."""
    made = folder / "count.so"
    command = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(made), str(HERE / "count.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def instructions(board: Board, runtime: str, models: Sequence[Path], inputs: Path, runs: int = RUNS) -> list[int]:
    """Instructions per inference of each of ``models`` on ``board``, one thread: the mean of ``runs`` after two."""
    marks = board.count(HERE / "on_board.py", runner(), f"count:{runs}", runtime, inputs, *models)
    assert len(marks) == 2 * len(models)
    return [round((after - before) / runs) for before, after in zip(marks[::2], marks[1::2], strict=True)]
