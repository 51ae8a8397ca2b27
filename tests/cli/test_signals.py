"""A signal that ends a command: one line, an exit code of its own, and nothing that was begun is left."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import contracts
import pytest
from running import STAGE

from edgesdk.cli import main
from edgesdk.cli.frame import ENDING

MODEL = """
import os, signal
from torch import nn

class Ends(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
    def forward(self, x):
        if len(x) > {more}:
            os.kill(os.getpid(), {number})
        return super().forward(x)

def making():
    os.kill(os.getpid(), {number})
"""
CASES = [(number, make) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) for make in ("Ends", "making")]


@pytest.fixture(autouse=True)
def own_signals():
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}  # the tests may run under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "make"), CASES)
def test_it_ends_in_one_line_wherever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int, make: str
) -> None:
    """While the user's own code runs, too, which catches what makes a process exit."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "net.py").write_text(MODEL.format(more=2, number=int(number)))
    (tmp_path / "data.py").write_text(
        "import torch\nclass Data:\n    train = None\n    calibration = test = [(torch.randn(40, 4),)] * 2\n"
    )
    given = ("--data", f"{tmp_path / 'data.py'}:Data", "--target", "pi5", "--max-drop", "50", "--json")
    with pytest.raises(SystemExit) as ended:
        main.main(["deploy", f"{tmp_path / 'net.py'}:{make}", *given, "--out", str(tmp_path / "bundle")])
    out, err = capfd.readouterr()
    assert ended.value.code == 128 + number
    *stages, line = err.splitlines()
    assert all(STAGE.fullmatch(stage) or stage.startswith("note: ") or not stage for stage in stages)
    said = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    assert line == f"edgesdk: {said}: run it again to go on, what was measured and learnt is kept"
    assert contracts.loaded(out)["exit_code"] == 128 + number
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("__")) == [
        "data.py", "net.py", "scratch",
    ]  # fmt: skip
    left = {path.name for path in (tmp_path / "scratch").iterdir()}
    assert not [name for name in left if not name.startswith("torchinductor")]  # PyTorch's own, where it comes first


def test_what_was_started_to_ignore_a_signal_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with pytest.raises(SystemExit) as ended:
        main.main(["targets", "-q"])
    assert ended.value.code == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGHUP)
    capfd.readouterr()
