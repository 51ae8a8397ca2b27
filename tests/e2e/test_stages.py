"""Stages from the command line and from Python, run as the documentation says, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import contracts
import numpy as np
import pytest
import torch
from given import MODELS, document, edgesdk, refused

import edgesdk as sdk
from edgesdk.core.errors import ModelError, UsageError
from edgesdk.example.data import example_data, example_model

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "early-exits.md"
OTHERS = """
class Dense(nn.Module):  # everything reads the input
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(8, 3)
    def forward(self, x):
        return self.b(torch.cat([x, torch.relu(self.a(x))], 1))

class Chain(Dense):
    def forward(self, x):
        return self.b(torch.relu(self.a(x)).repeat(1, 2))

class Map(nn.Module):  # an image, not classes
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 2, 3, 1, 1)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("made") / "stages"
    return out, document(edgesdk("stages", "--max-drop", "1", "--out", out, "--json"))


def test_the_folder_holds_what_was_printed(made) -> None:
    out, printed = made
    assert contracts.loaded((out / "stages.json").read_text()) == printed
    contracts.loaded((out / "manifest.json").read_text())
    assert document(edgesdk("verify", out, "--json"))["valid"]
    first, last = printed["stages"]
    assert {file.name for file in out.iterdir()} == {first["file"], last["file"], "stages.json", "manifest.json"}
    assert printed["basis"] == {"stages": "measured", "expected": "predicted"}
    assert first["reached"] == 1 and last["reached"] == last["left"] == pytest.approx(1 - first["left"])
    expected = first["latency_ms"] + last["reached"] * last["latency_ms"]
    assert printed["expected_ms"] == pytest.approx(expected)
    assert printed["dense_ms"] == printed["whole_ms"] > 0
    assert printed["held"]["staged"] >= printed["held"]["dense"] - 1 - 1e-6
    assert printed["test"]["last"] == printed["test"]["dense"] == pytest.approx(93.35)  # the model is left as it is
    assert first["left"] > 0.3 and printed["test"]["staged"] > 91  # most of these images are easy


def test_the_loop_of_the_documentation_answers_as_was_said(made, monkeypatch: pytest.MonkeyPatch) -> None:
    out, printed = made
    monkeypatch.chdir(out.parent)
    code = [code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "def answer" in code]
    space: dict = {}
    exec(code[0], space)
    data, model = example_data(), example_model()
    right = same = count = 0
    with torch.no_grad():
        for x, y in data.test:
            classes = np.concatenate([space["answer"](x[row : row + 1].numpy()) for row in range(len(x))]).argmax(1)
            right += int((classes == y.numpy()).sum())
            same += int((classes == model(x).argmax(1).numpy()).sum())
            count += len(y)
    assert 100 * right / count == pytest.approx(printed["test"]["staged"], abs=0.06)  # one image on a threshold
    assert same / count > 0.95


def test_from_python_without_labels_and_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = torch.nn
    model = part.Sequential(
        part.Conv2d(3, 8, 3, 2, 1), part.ReLU(), part.Conv2d(8, 8, 3, 2, 1), part.ReLU(), part.Flatten(),
        part.Linear(128, 4),
    )  # fmt: skip
    x = torch.randn(400, 3, 16, 16) * torch.rand(400, 1, 1, 1)

    class Unlabelled:
        train = [(x[:200],)]  # noqa: RUF012 (what a user writes)
        calibration = [(x[:64],), (x[200:300],)]  # noqa: RUF012
        test = [(x[300:],)]  # noqa: RUF012

    stages = sdk.stages(model, "raspberry-pi-5", Unlabelled(), precision="int8", max_drop=20, out=tmp_path / "stages")
    assert stages.precision == "int8" and stages.basis == {"stages": "predicted", "expected": "predicted"}
    assert stages.held.dense == stages.test.dense == 100  # agreement with itself
    assert stages.held.staged >= 80
    assert any("no labels" in note for note in stages.notes)
    assert stages.whole_ms != stages.dense_ms


def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS + OTHERS)
    generator = np.random.default_rng(0)
    rows, images = generator.standard_normal((200, 4)), generator.standard_normal((200, 3, 8, 8))
    for name, x in (("rows", rows), ("images", images)):
        np.savez(f"{name}.npz", x=x.astype(np.float32), y=np.arange(200) % 3)
    for options, kind, said in (
        ({"exits": 0}, UsageError, "0 exits"),
        ({"max_drop": 100}, UsageError, "a drop of 100 points"),
        ({"max_drop": -1}, UsageError, "a drop of -1 points"),
        ({"precision": "int4"}, UsageError, "no stages in 'int4'"),
        ({"runtime": "coreml"}, UsageError, "x86 runs no stages in 'coreml'"),
        ({"confidence": "margin"}, UsageError, "no confidence 'margin'"),
        ({"target": "pi5", "runtime": "openvino"}, UsageError, "raspberry-pi-5 runs no stages in 'openvino'"),
        ({"model": "models.py:Dense", "data": "rows.npz"}, ModelError, "cannot be cut"),
        ({"model": "models.py:Map", "data": "images.npz"}, ModelError, "early exits are for models that classify"),
        ({"model": "models.py:Chain", "data": "rows.npz", "exits": 2}, UsageError, "the model can be cut at 1 place"),
    ):
        with pytest.raises(kind, match=said):
            sdk.stages(**options)  # type: ignore[arg-type]
    assert "without a MODEL" in refused(edgesdk("stages", "--weights", "w.safetensors"), 2)
    assert "no data for models.py:Dense" in refused(edgesdk("stages", "models.py:Dense"), 2)
    (tmp_path / "taken").mkdir()
    assert "taken exists" in refused(edgesdk("stages", "--out", "taken"), 8)
    assert not (tmp_path / "stages").exists()
