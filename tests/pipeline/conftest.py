"""Studies for the tests of this folder; each takes one with a script of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import ScriptedMeter, make_study

from edgesdk.pipeline.study import Study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(ScriptedMeter(), tmp_path_factory.mktemp("scripted"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of the module's own, whose samples have labels."""
    return make_study(ScriptedMeter(), tmp_path_factory.mktemp("labelled"), labelled=True)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let what a run keeps lie in a folder of its own."""
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
