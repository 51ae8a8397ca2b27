"""A deployment that is killed on its way, as by ``kill -9``: nothing half-written poisons the next, which goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

POINTS: dict[str, dict[str, int]] = {
    "the whole run": {},
    "while what is known of sensitivity is written": {"renamed": 4},
    "while learning": {"learnt": 3},
    "between moving the bundle before away and this one to its place": {"moved": 1},
    "with the next file that is written": {"written": 0},
    "the last run": {},
}
"""Runs one after the other, each with what it is killed at, by how often that was done."""
DRIVER = """
import json, os, shutil, signal, sys
from collections import Counter
from pathlib import Path

import highspy, onnx, onnxruntime, onnxscript, torch, torch._dynamo, torch.export, torch.onnx  # once for all children
from torch import nn

import edgesdk
from edgesdk.bundle.bundle import Bundle
from edgesdk.compress.sensitivity import _Variants
from edgesdk.compress import refit
from edgesdk.pipeline import sensitivity
from edgesdk.train import trainer

folder, points = Path(sys.argv[1]), json.loads(sys.argv[2])
sensitivity.SECONDS = trainer.SECONDS = 0.0  # what comes in is kept at once
counts = Counter()


def watch(owner, name, what):
    real = getattr(owner, name)

    def watched(*given, **more):
        if counts[what] == dies.get(what, -1):
            os.kill(os.getpid(), signal.SIGKILL)
        counts[what] += 1
        return real(*given, **more)

    setattr(owner, name, watched)


for owner, name, what in (
    (_Variants, "loss", "sensed"), (refit, "_fitted", "fitted"), (torch.optim.AdamW, "step", "learnt"),
    (os, "fsync", "written"), (Path, "replace", "renamed"), (Path, "rename", "moved"),
):  # fmt: skip
    watch(owner, name, what)
torch.manual_seed(3)
layers = nn.Conv2d(2, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
model, x = nn.Sequential(*layers, nn.Linear(24, 3)), torch.randn(200, 2, 8, 8)
with torch.no_grad():
    model[-1].bias -= model(x).mean(0)
data = x.numpy(), model(x).argmax(1).numpy()
out, budget = folder / "bundle", edgesdk.Budget(size_bytes=9000)


def run():
    counts.clear()
    edgesdk.deploy(model, "pi5", data, budget, out, epochs=3, force=True, precision="fp32")
    (folder / "counts.json").write_text(json.dumps(counts))


def run_apart():
    if (child := os.fork()) == 0:
        run()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def manifest(name):
    path = folder / name / "manifest.json"
    return path.read_text() if path.is_file() else None


told = {}
for name, dies in points.items():
    code = run_apart()
    told[name] = {
        "code": code, "bundle": manifest("bundle"), "before": manifest(".bundle.old"),
        "counts": json.loads((folder / "counts.json").read_text()), "plan": Bundle.open(out).plan.digest if code == 0
        else None, "beside": sorted(path.name for path in folder.iterdir()),
    }  # fmt: skip
    if not dies:
        shutil.rmtree(folder / "cache" / "losses", ignore_errors=True)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is there after each run. All are children of one process that has loaded PyTorch; they are really killed."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "EDGESDK_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", DRIVER, str(folder), json.dumps(POINTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_was_killed_where_it_was_to_be(told: dict[str, Any]) -> None:
    assert [run["code"] for run in told.values()] == [-signal.SIGKILL if dies else 0 for dies in POINTS.values()]


def test_the_bundle_that_was_there_is_never_lost(told: dict[str, Any]) -> None:
    whole, *killed, last = told.values()
    assert all((run["bundle"] or run["before"]) == whole["bundle"] for run in killed)
    assert [run["bundle"] is None for run in killed] == [False, False, True, False]  # the next run brings it back
    assert last["bundle"] != whole["bundle"] and last["before"] is None


def test_the_next_run_goes_on_and_comes_to_the_same_plan(told: dict[str, Any]) -> None:
    whole, last = told["the whole run"], told["the last run"]
    assert last["plan"] == whole["plan"]
    once, again = whole["counts"], last["counts"]
    assert once["sensed"] > 4 and once["fitted"] >= 1 and once["learnt"] >= 5
    assert not {"sensed", "fitted", "learnt"} & set(again)  # all of it was done before one was killed at its end


def test_nothing_is_left_but_what_the_next_hour_sweeps(told: dict[str, Any]) -> None:
    scratch = [name for name in told["the last run"]["beside"] if name.startswith("edgesdk-scratch-")]
    assert len(scratch) == len([dies for dies in POINTS.values() if dies])  # each is a minute old at most
    beside = {name for name in told["the last run"]["beside"] if not name.startswith("edgesdk-")}
    assert beside <= {"bundle", "cache", "counts.json", "torchinductor_root"}, beside
