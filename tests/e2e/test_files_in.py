"""A model that comes as a file: one network by three ways in is one plan, names survive, every command takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given import document, edgesdk
from torch import nn

from edgesdk.core.plan import Plan
from edgesdk.core.serialize import from_json, loads
from edgesdk.network.load import load_model

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.deep = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.fc = nn.Linear(16, 4)
    def forward(self, image):
        x = torch.relu(self.conv(image))
        return self.fc(torch.relu(self.deep(x)).mean((2, 3)))

def make():
    torch.manual_seed(1)
    return Net()
"""
WAYS = ("net.py:make", "net.onnx", "net.pt2")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as code, as an ONNX file with free axes, and as an exported program; and samples that it labelled."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "net.py").write_text(NET)
    model = load_model(f"{folder / 'net.py'}:make")
    x = torch.randn(240, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = model(x)
    model.get_parameter("fc.bias").data -= answers.mean(0)  # so that no class is alone
    np.savez(folder / "data.npz", x=x.numpy(), y=(answers - answers.mean(0)).argmax(1).numpy())
    torch.save(model.state_dict(), folder / "net.pt")
    axes = {"image": {0: "n", 2: "h", 3: "w"}, "logits:0": {0: "n"}}
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits:0"]}
    torch.onnx.export(model, (x[:2],), str(folder / "net.onnx"), dynamo=False, dynamic_axes=axes, **names)
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(model, (x[:2],), dynamic_shapes=free), folder / "net.pt2")
    return folder


@pytest.fixture
def plans(here: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Plan]:
    monkeypatch.chdir(here)
    plans = {}
    for way in WAYS:
        if not Path(f"{way}.json").exists():
            own = ("--weights", "net.pt") if way == WAYS[0] else ()
            done = edgesdk("search", way, *own, "--data", "data.npz", "--target", "pi4", "--size", "9kB",
                           "--out", f"{way}.json", "-q")  # fmt: skip
            assert done.returncode == 0, done.stderr
        plans[way] = from_json(Plan, loads(Path(f"{way}.json").read_text()))
    return plans


def test_one_network_by_three_ways_in_is_one_plan(plans: dict[str, Plan]) -> None:
    first, *others = plans.values()
    assert first.kept["conv"] < 16 or any(option.precision == "int8" for option in first.options.values())
    for plan in others:
        assert (plan.options, plan.kept, plan.dropped) == (first.options, first.kept, first.dropped)
        assert plan.predicted.latency_ms == first.predicted.latency_ms  # of bytes some are of names


def test_a_file_is_deployed_with_its_names_and_verified_against_itself(here: Path, plans: dict[str, Plan]) -> None:
    done = document(edgesdk("deploy", "net.onnx", "--data", "data.npz", "--target", "pi4", "--size", "9kB",
                            "--epochs", "0", "--shape", "image=1x3x16x16", "--out", "bundle", "--json"))  # fmt: skip
    manifest, report = done["manifest"], done["report"]
    assert [entry["name"] for entry in manifest["inputs"]] == ["image"]
    assert [entry["name"] for entry in manifest["outputs"]] == ["logits:0"]
    assert report["against_model"]["dense"]["error"] < 1e-3  # ONNX Runtime on the file that was given
    told = document(edgesdk("verify", "bundle", "--model", "net.onnx", "--json"))
    assert list(told["against_model"]["errors"]) == ["logits:0"]


def test_a_plan_is_applied_on_a_file(here: Path, plans: dict[str, Plan]) -> None:
    done = edgesdk(
        "export", f"{WAYS[0]}.json", "net.onnx", "--data", "data.npz", "--format", "onnx", "--out", "files", "-q"
    )
    assert done.returncode == 0, done.stderr
    assert (here / "files" / "model.onnx").is_file()


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize(
    "how", [("sparsify", "--on", "channels"), ("transfer", "--classes", "7")], ids=lambda how: how[0]
)
def test_what_is_prepared_of_a_file_loads_again(
    way: str, how: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    done = edgesdk("prepare", how[0], way, "--data", "data.npz", *how[1:], "--epochs", "0.5",
                   "--out", "prepared", "--force", "-q")  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    model = load_model("prepared/model.py:model")
    assert isinstance(model, nn.Module) and "conv.weight" in model.state_dict()
    assert how[0] != "transfer" or model(torch.zeros(3, 3, 16, 16)).shape == (3, 7)


def test_every_way_is_estimated_and_measured(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    costs = {
        way: json.loads(edgesdk("estimate", way, "--target", "pi4", *shape, "--json").stdout)["latency_ms"]
        for way, shape in zip(WAYS, (("--shape", "3x16x16"), ("--shape", "image=3x16x16"), ()), strict=True)
    }
    assert max(costs.values()) < 1.1 * min(costs.values())
    done = document(edgesdk("benchmark", *WAYS, "--shape", "image=3x16x16", "--mode", "rapid", "--json"))
    assert [report["name"] for report in done["reports"]] == list(WAYS)


def test_a_shape_that_contradicts_the_data_or_the_file_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    for way, shape, words in (
        ("net.onnx", "image=3x8x8", "--shape says 3x8x8 of image, and the data are 3x16x16"),
        ("net.pt2", "image=3x8x8", "--shape says 3x8x8"),
    ):
        done = edgesdk("search", way, "--data", "data.npz", "--target", "pi4", "--size", "9kB", "--shape", shape,
                       "--out", "no.json")  # fmt: skip
        assert done.returncode == 2 and words in done.stderr
    done = edgesdk("estimate", "net.pt2", "--target", "pi4", "--shape", "image=3x8x8")
    assert done.returncode == 0, done.stderr  # of a program whose sizes are its example's, another may be priced
