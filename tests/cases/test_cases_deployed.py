"""A model with much that tracing may lose, deployed whole: the bundle's file, report and ``verify`` are its own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from cases_harness import SAMPLES, answered, distance, expected
from torch import Tensor, nn

import edgesdk
from edgesdk.cli import main
from edgesdk.core.errors import BundleError
from edgesdk.network.load import load_callable
from edgesdk.workflows.comparison import against_model

MODEL = """
import torch
from torch import nn
from torch.nn.utils import parametrizations


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), parametrizations.weight_norm(nn.Conv2d(16, 16, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        self.calls += 1
        y = self.a(x)
        y[:, :8] = y[:, :8] * 3 - 1
        with torch.no_grad():
            y = y.relu_()
        y = self.b(y).relu()
        return {"scores": self.head(y.mean((2, 3))), "none": None, "classes": 4}


def make():
    torch.manual_seed(4)
    return Written()
"""


class Given:
    """Samples without labels."""

    train = None
    calibration = tuple((torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(i)), None) for i in (0, 1))
    test = calibration[:1]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, str]:
    """A bundle in a folder, the module as it is afterwards, and what names it."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "net.py").write_text(MODEL)
    spec = f"{folder / 'net.py'}:make"
    model = load_callable(spec, "MODEL")().train()
    numbers = torch.get_rng_state(), random.getstate()
    edgesdk.deploy(
        model, data=Given(), budget=edgesdk.Budget(max_drop=60.0), epochs=0, out=folder / "bundle", precision="int8"
    )
    assert torch.equal(numbers[0], torch.get_rng_state()) and numbers[1] == random.getstate()
    return folder / "bundle", model, spec


def test_the_file_answers_what_the_module_answers(deployed) -> None:
    path, model, _ = deployed
    report = json.loads((path / "report.json").read_text())
    x: Tensor = Given.test[0][0][:SAMPLES]
    (output,) = answered(path / "model.onnx", "onnxruntime", x, ["x"])
    (wanted,) = expected(model.eval(), x)
    off = report["against_model"]
    assert off["dense"]["error"] < 1e-4
    assert distance(output, wanted) < max(2 * off["deployed"]["error"], 1e-3)
    assert report["score"]["dense"] == 100.0  # fidelity of the model to itself
    assert report["score"]["judged_on"] == "the model and the file"


def test_the_module_is_as_it_was(deployed) -> None:
    _, model, spec = deployed
    fresh = load_callable(spec, "MODEL")()
    own, other = model.state_dict(), fresh.state_dict()
    assert list(own) == list(other) and all(np.array_equal(own[n], other[n]) for n in own if n != "calls")
    assert nn.utils.parametrize.is_parametrized(model.b)


def test_verify_compares_the_file_with_the_model(deployed, capsys) -> None:
    path, model, spec = deployed
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path), "--model", spec, "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)["against_model"]
    assert told["samples"] == 8 and told["errors"]["output"] <= max(2 * told["deployment_saw"], 0.05)
    torch.manual_seed(9)
    for layer in (model.a, model.head):
        layer.reset_parameters()
    with pytest.raises(BundleError, match="this is not the model that the bundle was made of: output differs from its"):
        against_model(path, model)
