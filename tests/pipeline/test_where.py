"""A target is written by its own name, whichever alias it was called by: an alias may move to another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scripted import with_script

import edgesdk as sdk
from edgesdk.core.budget import Budget
from edgesdk.core.errors import UsageError
from edgesdk.core.target import target, targets
from edgesdk.devices.inventory import Device, add, devices
from edgesdk.pipeline.planning import make_plan
from edgesdk.pipeline.study import Study
from edgesdk.workflows.where import Where

ALIASES = [(alias, entry.name) for entry in targets().values() for alias in entry.aliases]


@pytest.mark.parametrize(("alias", "name"), ALIASES)
def test_no_alias_is_written(
    alias: str, name: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Where.named(alias.upper())
    assert where.target == target(name)
    own = replace(with_script(study), target=where.target.name)
    assert make_plan(own, Budget(size_bytes=1e6)).plan.target == name  # which the manifest takes it from
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "devices.toml"))
    add(Device("board", "ssh://pi@10.0.0.3", target=alias))
    assert devices()["board"].target == name
    if not where.target.measured:
        assert sdk.estimate(study.graph, target=alias).target == name


def test_what_is_at_hand_is_measured_and_what_is_not_is_predicted() -> None:
    assert Where.named("x86").at_hand and not Where.named("pi4").at_hand
    assert Where.named("pi4", device="local").at_hand
    with pytest.raises(UsageError, match="runs no layer in fp64"):
        Where.named("pi4", precisions=["fp64"]).allow_precisions("onnxruntime")
    assert Where.named("pi4", precisions=["int8"]).allow_precisions("onnxruntime") == ("fp32", "int8")
