"""What a user gives the command line in these tests, and how it is run."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import contracts
from in_process import edgesdk as edgesdk

MODELS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 4)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class Asinh(Small):  # an operator that TFLite lacks
    def forward(self, x):
        return torch.asinh(super().forward(x))

class Branching(Small):
    def forward(self, x):
        y = super().forward(x)
        return y * 2 if y.sum() > 0 else y

def number():
    return 3

def failing():
    raise RuntimeError("no weights today")

nothing = 7
"""
# Runs a script with the bundle's own needs alone: whatever else it imports is an error.
ALONE = """
import runpy, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "edgesdk", "edgesdk_targets", "onnx", "onnxscript"):
            raise ImportError(f"{name} is not for bundles")
sys.meta_path.insert(0, Refused())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


STAGE = re.compile(r" *\d+\.\d s  .+")  # a line of the log


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON document on stdout of a command that succeeded; on stderr stages and notes alone."""
    assert done.returncode == 0, done.stderr
    assert all(STAGE.fullmatch(line) or line.startswith("note: ") for line in done.stderr.splitlines()), done.stderr
    return contracts.loaded(done.stdout)


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a command that failed as documented."""
    assert done.returncode == code, done.stderr
    line = told(done.stderr)
    if "--json" in done.args:
        failure = contracts.loaded(done.stdout)
        assert failure["exit_code"] == code and line.endswith(f"{failure['fact']}: {failure['remedy']}")
    else:
        assert done.stdout == ""
    return line


def told(stderr: str) -> str:
    """The line on ``stderr`` that says what is wrong, after those that say how far the command was, and notes."""
    *stages, line = stderr.splitlines()
    assert all(STAGE.fullmatch(stage) or stage.startswith("note: ") for stage in stages), stderr
    return line + "\n"
