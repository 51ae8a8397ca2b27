"""A cache that cannot be written is noticed before anything long, and the remedy names the variable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from running import Run

COMMANDS = [
    ("deploy", "models.py:Small", "--data", "data.npz", "--target", "x86"),
    ("search", "models.py:Small", "--data", "data.npz", "--target", "pi5"),
    ("calibrate", "mine"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_it_is_said_first(
    edgesdk: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "file" / "cache"))
    done = edgesdk(*command, *(["--out", str(tmp_path / "out")] if command[0] != "calibrate" else []))
    assert done.code == 9
    assert str(tmp_path / "file" / "cache") in done.line and "set EDGESDK_CACHE to a folder" in done.line
    assert done.stages == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("call", ["search", "deploy", "calibrate"])
def test_python_is_told_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str) -> None:
    from torch import nn

    import edgesdk

    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("EDGESDK_PROFILES", str(tmp_path / "profiles"))
    told: list[str] = []
    given = {"data": [], "budget": edgesdk.Budget(size_bytes=1e6), "tell": lambda stage, share: told.append(stage)}
    with pytest.raises(edgesdk.EdgeSdkError, match="EDGESDK_CACHE"):
        if call == "calibrate":
            edgesdk.calibrate("mine", tell=given["tell"])
        else:
            getattr(edgesdk, call)(nn.Linear(4, 2), "pi5", **given)
    assert not told and "edgesdk.pipeline.study" in sys.modules
