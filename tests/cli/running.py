"""The command line in this process: what it printed to the real stdout and stderr, and how it ended."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contracts
import in_process

STAGE = re.compile(r" *\d+\.\d s  .+")  # of the log
COST = re.compile(r"\b\d[\d.]* (?=[μmk]?s\b|k?B\b)")  # which moves with profiles and exporters
Run = Callable[..., "Ended"]


def still(text: str) -> str:
    """``text`` without the figures of costs."""
    return COST.sub("# ", text)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.code == 0, self.err
        return contracts.loaded(self.out)

    @property
    def stages(self) -> list[str]:
        return [line for line in self.err.splitlines() if STAGE.fullmatch(line)]

    @property
    def line(self) -> str:
        """The one line that says what is wrong."""
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("edgesdk: ")]
        assert self.err.endswith(line + "\n")
        return line

    @property
    def refusal(self) -> str:
        """The exit code and that line, without what moves from run to run."""
        return f"{self.code} {re.sub(r'0x[0-9a-f]+', '0x', still(self.line))}"


def edgesdk(*arguments: str | Path) -> Ended:
    """Run the command line in this process."""
    done = in_process.edgesdk(*arguments)
    return Ended(done.returncode, done.stdout, done.stderr)
