"""How far a run is, what it may take, and that an interrupted one goes on where it was."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from running import Run

import edgesdk as sdk
from edgesdk.cli.making import STEPS
from edgesdk.cli.progress import _bars, _Left, _lines, _numbered
from edgesdk.pipeline.allowance import Allowance
from edgesdk.pipeline.deadline import parse_seconds
from edgesdk.solve.finalists import halving, halving_units
from edgesdk.train import trainer as recover

DATA = ("models.py:Deep", "--data", "data.npz", "--target", "pi5", "--max-drop", "100")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_log_has_a_line_per_stage_and_quiet_none(edgesdk: Run, tmp_path: Path) -> None:
    done = edgesdk("search", *DATA[:5], "--size", "4kB", "--out", tmp_path / "plan.json")
    assert done.code == 0
    names = [line.split("  ", 1)[1].strip() for line in (stage.strip() for stage in done.stages)]
    assert any(name.startswith("the dense model scores") for name in names)
    assert [name.split(" (")[0] for name in names if not name.startswith("the ")] == [
        "starting", "1/7 judging the dense model", "2/7 tracing", "3/7 pricing whole layers",
        "4/7 predicting the dense model", "5/7 pricing fewer channels", "6/7 measuring sensitivity", "7/7 searching",
    ]  # fmt: skip
    quiet = edgesdk("search", *DATA[:5], "--size", "4kB", "--out", tmp_path / "quiet.json", "-q")
    assert quiet.code == 0 and quiet.stages == []
    assert len(quiet.out.splitlines()) == 4 < len(done.out.splitlines())


def test_a_terminal_has_a_bar_per_stage_with_its_number_and_detail() -> None:
    out = io.StringIO()
    with _bars(STEPS, Console(file=out, force_terminal=True, width=160), _Left(600.0)) as show:
        show("tracing", "", None)
        show("recovering", "from 80.00, dense 91.00, int8, epoch 1.0 of 2", 0.5)
    said = out.getvalue()
    assert "2/10 tracing" in said and "9/10 recovering" in said
    assert "left" in said and "epoch 1.0 of 2" in said
    assert "of the time left" in said


def test_a_log_has_a_line_per_finalist_and_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    show = _lines(STEPS, _Left(600.0))
    for share in (0.1, 0.5, 1.0):
        show("trying finalists", f"1 of 2 or more, float, epoch {share} of 1", share)
    show("trying finalists", "2 of 2 or more, best so far 97.92, float, epoch 0.1 of 1", 0.1)
    show("recovering", "from 97.92, dense 99.00, int8, epoch 0.1 of 9", 0.0)
    show("recovering", "from 97.92, dense 99.00, int8, epoch 8.1 of 9", 0.9)
    first, second, third = capsys.readouterr().err.splitlines()
    assert "8/10 trying finalists: 1 of 2 or more" in first and "best so far 97.92" in second
    assert "9/10 recovering: from 97.92, dense 99.00" in third
    assert all("10:00 of the time left" in line or "9:5" in line for line in (first, second, third))


def test_stages_that_alternate_are_one_step() -> None:
    steps = ("searching", ("fitting weights", "trying finalists"), "recovering")
    names = [name for step in steps for name in ([step] if isinstance(step, str) else step)]
    assert [int(_numbered(name, steps).partition("/")[0]) for name in names] == [1, 2, 2, 3]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5h", 5400), (" 2 m ", 120)])
def test_a_time_has_a_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["10", "soon", "0s", "-3min", "5days", "", "nan s"])
def test_what_is_no_time_is_refused(edgesdk: Run, text: str) -> None:
    done = edgesdk("deploy", *DATA, "--time", text or " ")
    assert done.code == 2 and "write it like 90s, 10min or 1.5h" in done.line


@pytest.mark.parametrize("counts", [[3], [2, 2], [5, 3, 2], [1]])
def test_epochs_bound_all_training(counts: list[int]) -> None:
    spent = Allowance(10.0)
    for count in counts:
        halving(range(count), lambda _, share, n=count: spent.short(share, halving_units(n)), 0.0)
    first = spent.full()
    assert first >= 0.6 * 10
    assert 0 < spent.full() < first
    assert spent.spent <= 10


def test_halving_takes_the_units_that_it_says() -> None:
    for count in range(2, 9):
        taken: list[float] = []
        halving(range(count), lambda candidate, share, t=taken: t.append(share) or float(candidate), 0.0)
        assert sum(taken) == pytest.approx(halving_units(count))


def test_with_a_time_endless_training_ends_and_a_line_says_what_was_cut(
    edgesdk: Run, own_cache: Path, tmp_path: Path
) -> None:
    done = edgesdk("deploy", *DATA, "--epochs", "1000000", "--time", "5s", "--out", tmp_path / "b", "--json")
    notes = [note for note in done.document["report"]["notes"] if "time ended the recovery" in note or "5 s" in note]
    cut = ("the time ended the recovery after", "to end within 5 s the run cut", "5 s cannot be kept, as")
    assert any(part in note for note in notes for part in cut)


class Interrupted(Exception):
    pass


def _deploy(given: Path, out: Path, at: Callable[[str, float], bool] = lambda stage, share: False) -> Any:
    def tell(stage: str, share: float | None) -> None:
        if at(stage, share or 0.0):
            raise Interrupted

    model = sdk_model(given)
    return sdk.deploy(model, "pi5", str(given / "data.npz"), sdk.Budget(max_drop=100.0), out, epochs=20, tell=tell)


def sdk_model(given: Path) -> Any:
    from edgesdk.network.load import load_model

    torch.manual_seed(0)
    return load_model(f"{given / 'models.py'}:Deep", None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps were trained, each a 1."""
    taken: list[int] = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: (taken.append(1), real(self, *a))[1])
    return taken


def test_what_was_learnt_before_an_interruption_is_taken_up(
    given: Path, own_cache: Path, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "SECONDS", 0.0)
    step = torch.optim.AdamW.step

    def end(optimizer: torch.optim.AdamW, *given: Any) -> None:
        if len(steps) > 10:  # of some 18, the first few of which are finalists'
            raise Interrupted
        step(optimizer, *given)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(torch.optim.AdamW, "step", end)
        _deploy(given, tmp_path / "one")
    before = len(steps)
    assert list((own_cache / "runs").iterdir())
    assert not (tmp_path / "one").exists()
    steps.clear()
    bundle = _deploy(given, tmp_path / "one")
    assert 0 < len(steps) < before  # what is left of the second half, no finalist again
    assert bundle.report["score"]["deployed"] >= 0
    assert not list((own_cache / "runs").iterdir())


def test_what_is_kept_and_damaged_counts_as_absent(
    given: Path, own_cache: Path, tmp_path: Path, steps: list[int]
) -> None:
    with pytest.raises(Interrupted):
        _deploy(given, tmp_path / "one", lambda stage, share: stage.startswith("exporting"))
    whole = len(steps)
    kept = list((own_cache / "runs").rglob("*.pt"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
    steps.clear()
    _deploy(given, tmp_path / "one")
    assert len(steps) == whole
