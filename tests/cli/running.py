"""The command line in this process: what it printed to the real stdout and stderr, and how it ended."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgesdk.cli import main

STAGE = re.compile(r" *\d+\.\d s  .+")  # of the log


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

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


class Running:
    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *arguments: str | Path) -> Ended:
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main([str(a) for a in arguments], prog_name="edgesdk")
        out, err = self.capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, err)
