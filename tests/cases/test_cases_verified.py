"""``verify --model`` tells the model that a bundle was made of from others, however little its file keeps of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import torch

import edgesdk
from edgesdk.bundle.bundle import AgainstModel, described
from edgesdk.core.errors import BundleError
from edgesdk.network.load import load_callable
from edgesdk.workflows.comparison import against_model

MODEL = """
import torch
from torch import nn


class Two(nn.Module):  # two heads of one shape, and what was picked
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 32, 3)
        self.left, self.right, self.drop = nn.Linear(32, 6), nn.Linear(32, 6), nn.Dropout(0.5)

    def forward(self, x):
        y = self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3))
        left, right = self.left(self.drop(y)), self.right(y)
        return {"left": left, "right": right, "best": left.argmax(1)}


def make(seed=4):
    torch.manual_seed(seed)
    model = Two()
    with torch.no_grad():
        for head in (model.left, model.right):
            head.bias.zero_()
            head.weight.sub_(head.weight.mean(1, keepdim=True))
    return model


def other():
    return make(5)


def training():
    return make().train()


def renumbered():
    model = make()
    with torch.no_grad():
        model.left.weight.copy_(model.left.weight.roll(1, 0))
        model.left.bias.copy_(model.left.bias.roll(1, 0))
    return model


def swapped():
    model = make()
    model.left, model.right = model.right, model.left
    return model


def retouched():
    model = make()
    with torch.no_grad():
        model.right.bias[2] += 0.05
    return model


class Fewer(Two):
    def forward(self, x):
        return list(super().forward(x).values())[:2]


class Kept(Two):
    def forward(self, x):
        left, *others = super().forward(x).values()
        return left.mean(1, keepdim=True), *others


fewer, kept = Fewer, Kept
"""


class Given:
    """Samples without labels."""

    train = None
    calibration = tuple((torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(i)), None) for i in (0, 1))
    test = calibration[:1]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle that keeps little of its model, at a profile's prices; and the file of models."""
    folder = tmp_path_factory.mktemp("verified")
    (folder / "net.py").write_text(MODEL)
    model = load_callable(f"{folder / 'net.py'}:make", "MODEL")()
    bounds = edgesdk.Budget(size_bytes=2300.0)
    edgesdk.deploy(model, "pi5", Given(), bounds, folder / "bundle", output="left", epochs=0, force=True)
    return folder / "bundle", folder / "net.py"


def judged(deployed: tuple[Path, Path], name: str, **more: Any) -> AgainstModel:
    return against_model(deployed[0], load_callable(f"{deployed[1]}:{name}", "MODEL")(), **more)


@pytest.mark.parametrize("name", ["make", "training"])
def test_the_model_passes_in_either_mode(deployed: tuple[Path, Path], name: str) -> None:
    told = judged(deployed, name)
    assert list(told.model_errors) == list(told.errors) and max(told.model_errors.values()) < 1e-5 and not told.notes
    assert told.deployment_saw > 0.2


@pytest.mark.parametrize(
    "name, parted",
    [("renumbered", "left"), ("swapped", "left"), ("other", "left"), ("retouched", "right")],
)
def test_another_model_is_refused_however_far_the_file_is(
    deployed: tuple[Path, Path], name: str, parted: str, tmp_path: Path
) -> None:
    words = f"this is not the model that the bundle was made of: {parted} differs from its recorded answers by"
    report = json.loads((deployed[0] / "report.json").read_text())["against_model"]
    far = {**report, "deployed": {**report["deployed"], "error": 0.9, "by_output": [0.9] * 3}}
    for bundle in (deployed, changed(deployed, tmp_path / "far", far)):
        for more in ({}, {"data": Given()}):
            with pytest.raises(BundleError, match=words):
                judged(bundle, name, **more)


def test_answers_of_another_form_are_refused(deployed: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match="the model answers with 2 tensors, the bundle with 3"):
        judged(deployed, "fewer")
    with pytest.raises(BundleError, match=r"output 1 of the model has the shape \(8, 1\), that of the bundle \(8, 6\)"):
        judged(deployed, "kept")  # it would broadcast


def changed(deployed: tuple[Path, Path], out: Path, report: dict, left_out: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """The bundle with other arrays and another report, its digests made anew."""
    shutil.copytree(deployed[0], out)
    with np.load(out / "sample.npz") as file:
        arrays = {name: file[name] for name in file.files if not name.startswith(left_out)}
    np.savez(out / "sample.npz", **arrays)
    told = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps({**told, "against_model": report}))
    manifest = json.loads((out / "manifest.json").read_text())
    digests = described(out, ["sample.npz", "report.json"])
    manifest["files"] |= {name: {"sha256": file.sha256, "bytes": file.bytes} for name, file in digests.items()}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out, deployed[1]


def test_each_output_is_judged_by_what_was_seen_of_it(deployed: tuple[Path, Path], tmp_path: Path) -> None:
    report = json.loads((deployed[0] / "report.json").read_text())["against_model"]
    seen = report["deployed"]["by_output"]
    assert len(seen) == 3 and max(seen) == report["deployed"]["error"] and all(off > 0.05 for off in seen[:2])
    tighter = {**report, "deployed": {**report["deployed"], "by_output": [seen[0] / 50, *seen[1:]]}}
    other = changed(deployed, tmp_path / "bundle", tighter)
    with np.load(other[0] / "sample.npz") as file:  # whose own distance counts as well
        assert {name for name in file.files if name.startswith("model:")} == {"model:left", "model:right", "model:best"}
    assert judged(other, "make").deployment_saw_by_output["left"] == pytest.approx(seen[0] / 50)
    alone = changed(deployed, tmp_path / "alone", tighter, ("model:",))
    with pytest.raises(BundleError, match=r"left differs from the model by .* where the deployment saw"):
        judged(alone, "make")  # what was seen of the other output is larger


def test_of_a_bundle_of_before_it_is_said_what_could_not_be_checked(
    deployed: tuple[Path, Path], tmp_path: Path
) -> None:
    report = json.loads((deployed[0] / "report.json").read_text())["against_model"]
    former = {name: {key: figure for key, figure in off.items() if key != "by_output"} for name, off in report.items()}
    before = changed(deployed, tmp_path / "before", former, ("model:",))
    told = judged(before, "make")
    assert not told.model_errors and set(told.deployment_saw_by_output.values()) == {former["deployed"]["error"]}
    assert "does not record what the model answered" in told.notes[0]
    done = in_process.edgesdk("verify", before[0], "--model", f"{before[1]}:make")
    assert done.returncode == 0 and f"note: {told.notes[0]}\n" in done.stdout
    with pytest.raises(BundleError, match="the model answers with 2 tensors, the bundle with 3"):
        judged(before, "fewer")
