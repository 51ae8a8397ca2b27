"""A runtime, forms, a criterion, a metric and a board of one file each: registered, and deployed with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_activation
import toy_criterion
import toy_form
import toy_metric
import toy_runtime
import toy_stored
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgesdk import Budget, deploy
from edgesdk.bundle.bundle import Bundle, check
from edgesdk.compress import criteria
from edgesdk.compress.apply import compressed
from edgesdk.compress.stored import packed_as
from edgesdk.compress.stored import stored as stored_weights
from edgesdk.core import runtime, stored
from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Cost
from edgesdk.core.errors import UsageError
from edgesdk.core.plan import Form, LayerPlan, Option, Plan, Proof
from edgesdk.data import metrics
from edgesdk.export.formats import export
from edgesdk.export.parity import parity
from edgesdk.network.trace import trace
from edgesdk.price import forms
from edgesdk.price.stored import forms as list_stored
from edgesdk.price.stored import stored_bytes

HERE = Path(__file__).parent
NO_PROOF = Proof(0.0, 0.0, 0.0, 0.0, "none")
REGISTRIES: tuple[dict[str, Any], ...] = (
    runtime.RUNTIMES, forms.KINDS, forms.CHEAPER, stored.STORED, criteria.CRITERIA, metrics.METRICS,
)  # fmt: skip


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """All of them registered; the groups that the criterion was asked for."""
    ranked: list[str] = []

    def rank(*given):
        scores = toy_criterion.rank(*given)
        ranked.extend(scores)
        return scores

    before = [(rows, dict(rows)) for rows in REGISTRIES]
    runtime.register(toy_runtime.row())
    forms.register(toy_form.KIND)
    forms.register(toy_activation.ROW)
    stored.register(toy_stored.ROW)
    criteria.register(replace(toy_criterion.ROW, rank=rank))
    metrics.register(toy_metric.BalancedAccuracy)
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
    for rows, kept in before:
        rows.clear()
        rows.update(kept)


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
    assert toys and criteria.method() == "taylor and hessian and toy size, fitted"
    assert Bundle.open(bundle.path).plan.digest == bundle.plan.digest
    check(bundle.path)


def test_a_stored_form_and_a_cheaper_activation_are_a_row_each(toys: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 8)).eval()
    x = torch.randn(4, 3, 8, 8)
    network = trace(model, x)
    weighted = [layer for layer in network.graph.layers if layer.weight_shape]
    options = {layer.name: Option() for layer in network.graph.layers}
    for layer in weighted:
        few, many = list_stored(layer, ["toy-even"], "onnxruntime")
        assert (few, many) == (Form("toy-even", (4,)), Form("toy-even", (8,)))
        assert stored_bytes(few, layer.weight_shape) < stored_bytes(many, layer.weight_shape)
        options[layer.name] = Option(form=many)
    (silu,) = [layer for layer in network.graph.layers if layer.operator == "silu"]
    assert Form("toy-hard") in forms.forms(silu, ["toy-hard"])
    options[silu.name] = Option(form=Form("toy-hard"))
    layers = tuple(LayerPlan(name, option, 0.0, "") for name, option in options.items())
    plan = Plan(network.graph.digest, "x86", "onnxruntime", 1, {}, layers, (), Cost(0, 0, 0, "predicted"), NO_PROOF)
    small = stored_weights(*compressed(network, plan, x, {}))
    wanted = nn.Sequential(*model)
    wanted[1] = nn.Hardsigmoid()
    for part in (wanted[0], wanted[2], wanted[4]):
        assert isinstance(part.weight, Tensor)
        part.weight.data = packed_as(part.weight, Form("toy-even", (8,))).decoded()
    torch.testing.assert_close(small.flat(x)[0], wanted(x), rtol=1e-4, atol=1e-5)
    export(small, x, tmp_path / "model.onnx")
    assert parity(small, Artifact(tmp_path / "model.onnx"), [x]).error <= 1e-3


@pytest.mark.parametrize("register", [forms.register, stored.register, criteria.register, metrics.register])
def test_a_name_is_taken_once(register: Any, toys: list[str]) -> None:
    rows = {
        forms.register: toy_form.KIND, stored.register: toy_stored.ROW, criteria.register: toy_criterion.ROW,
        metrics.register: type("Other", (toy_metric.BalancedAccuracy,), {}),
    }  # fmt: skip
    row = rows[register] if register is metrics.register else replace(rows[register])
    with pytest.raises(ValueError, match="already"):
        register(row)


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
