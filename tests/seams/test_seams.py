"""A runtime, a form, a criterion, a metric and a board of one file each: registered, and deployed with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import toy_criterion
import toy_form
import toy_metric
import toy_runtime
from torch import nn
from torch.utils.data import TensorDataset

from edgesdk import Budget, deploy
from edgesdk.bundle.bundle import Bundle, check
from edgesdk.compress.criteria import CRITERIA, method
from edgesdk.core.errors import UsageError
from edgesdk.core.plan import Form
from edgesdk.core.runtime import RUNTIMES
from edgesdk.data.metrics import METRICS
from edgesdk.price.forms import KINDS

HERE = Path(__file__).parent


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """All five registered; the groups that the criterion was asked for."""
    ranked: list[str] = []

    def rank(*given):
        scores = toy_criterion.rank(*given)
        ranked.extend(scores)
        return scores

    monkeypatch.setitem(RUNTIMES, "toy", toy_runtime.row())
    monkeypatch.setitem(KINDS, toy_form.KIND.method, toy_form.KIND)
    monkeypatch.setitem(CRITERIA, "toy size", rank)
    monkeypatch.setitem(METRICS, "toy-balanced", toy_metric.BalancedAccuracy)
    board = tmp_path / "profiles" / "toy-board"
    board.mkdir(parents=True)
    shutil.copy(HERE / "toy_board.toml", board / "device.toml")
    monkeypatch.setenv("EDGESDK_PROFILES", str(board.parent))
    installed = tmp_path / "site" / "toy_runtime-1.0.dist-info"  # as pip leaves it on a device
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-runtime\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[edgesdk.runners]\ntoy = toy_runtime\n")
    path = [str(installed.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    yield ranked


def trained() -> tuple[nn.Module, TensorDataset]:
    """A small network, and what it was trained on: which of eight columns is the brightest."""
    torch.manual_seed(0)
    x = torch.randn(100, 1, 8, 8)
    y = x.sum((1, 2)).argmax(1)
    wide = nn.Conv2d(1, 64, 9, padding=4)  # 21 kB, and 2.6 kB at its narrowest
    model = nn.Sequential(wide, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), TensorDataset(x, y)


def test_a_deployment_takes_a_runtime_a_form_a_criterion_a_metric_and_a_board(toys: list[str], tmp_path: Path) -> None:
    model, data = trained()
    bundle = deploy(
        model, "toy", data, Budget(size_bytes=2800), tmp_path / "bundle", metric="toy-balanced",
        precision=["fp32"], candidate=["toy-pixel"], epochs=0, force=True,
    )  # fmt: skip
    assert bundle.manifest["target"] == "toy-board" and bundle.manifest["runtime"]["name"] == "toy"
    assert bundle.model.name == "model.toy" and bundle.model.read_bytes().startswith(toy_runtime.MAGIC)
    assert bundle.manifest["runtime"]["version"] == toy_runtime.VERSION
    assert bundle.report["basis"] == "measured" and bundle.report["metric"] == "balanced accuracy"
    assert bundle.model.stat().st_size <= 2800
    assert Form("toy-pixel") in [option.form for option in bundle.plan.options.values()]
    assert toys and method() == "taylor and hessian and toy size, fitted"
    assert Bundle.open(bundle.path).plan.digest == bundle.plan.digest
    check(bundle.path)


def test_what_is_not_registered_is_unknown(tmp_path: Path) -> None:
    model, data = trained()
    for given, says in (
        (dict(metric="toy-balanced"), "there is no metric 'toy-balanced'"),
        (dict(candidate=["toy-pixel"]), "'toy-pixel' is no form of a layer"),
        (dict(target="toy-board"), "there is no target 'toy-board'"),
        (dict(runtime="toy"), "x86 has no runtime 'toy'"),
    ):
        with pytest.raises(UsageError, match=says):
            deploy(model, given.pop("target", "x86"), data, out=tmp_path / "bundle", **given)  # type: ignore[arg-type]
