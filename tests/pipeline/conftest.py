"""One study for all tests of this folder; each takes it with a script of its own."""

from __future__ import annotations

import pytest
from scripted import ScriptedMeter, make_study

from edgesdk.pipeline.study import Study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(ScriptedMeter(), tmp_path_factory.mktemp("scripted"))
