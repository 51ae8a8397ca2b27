"""A run that is interrupted anywhere, and asked for again: it comes to the same plan, and redoes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripted import INPUTS, Branched, ScriptedMeter

from edgesdk.compress import refit
from edgesdk.compress.sensitivity import _Variants
from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.report import Measurement
from edgesdk.network.network import Network
from edgesdk.pipeline import sensitivity, setup
from edgesdk.pipeline.setup import digest_of
from edgesdk.train import apply, trainer
from edgesdk.workflows.deploy import deploy
from edgesdk.workflows.where import Meters, Where

SAMPLES = 120
At = Callable[[str, float], bool]


@dataclass
class Watched(ScriptedMeter):
    """Counts what it is asked to measure; ``ends`` interrupts a run of several files while it is measured."""

    measured: bool = True
    together: list[tuple[str, ...]] = field(default_factory=list)
    ends: Callable[[tuple[str, ...]], bool] = lambda names: False

    def measure(self, artifacts: Mapping[str, Artifact], *rest: Any, **more: Any) -> Mapping[str, Measurement]:
        names = tuple(artifacts)
        if self.ends(names):
            raise KeyboardInterrupt
        self.together.append(names)
        return super().measure(artifacts, *rest, **more)


@dataclass
class Done:
    """How often what takes long was done: parts of sensitivity, fits of layers, steps of training, runs measured."""

    counts: Counter[str]
    meter: Watched

    def clear(self) -> None:
        self.counts.clear()
        self.meter.together.clear()


@pytest.fixture(scope="module")
def written() -> dict[str, bytes]:
    """The files that were exported so far, by what is in them: each is real, and none is made twice."""
    return {}


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: dict[str, bytes]) -> Done:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    real_export = setup.export

    def export(ready: Network, example: Any, path: Path, runtime: str) -> None:
        key = digest_of(ready.module) + str(ready.module)
        if key not in written:
            real_export(ready, example, path, runtime)
            written[key] = path.read_bytes()
        path.write_bytes(written[key])

    monkeypatch.setattr(setup, "export", export)
    monkeypatch.setattr(sensitivity, "SECONDS", 0.0)
    monkeypatch.setattr(trainer, "SECONDS", 0.0)
    monkeypatch.setattr(apply, "SECONDS", 0.0)
    watched = Done(Counter(), Watched())
    monkeypatch.setattr(Where, "open_meters", lambda self, agent, force: Meters((watched.meter,), {}))

    def count(owner: Any, name: str, what: str) -> None:
        real = getattr(owner, name)

        def counted(*given: Any, **more: Any) -> Any:
            watched.counts[what] += 1
            return real(*given, **more)

        monkeypatch.setattr(owner, name, counted)

    count(_Variants, "loss", "sensed")
    count(refit, "_fitted", "fitted")
    count(torch.optim.AdamW, "step", "learnt")
    return watched


def run(out: Path, at: At = lambda stage, share: False) -> Any:
    """A deployment from beginning to end, with figures of a script; ``at`` interrupts it."""

    def tell(stage: str, share: float | None) -> None:
        if at(stage, share or 0.0):
            raise KeyboardInterrupt

    torch.manual_seed(3)
    model = Branched().eval()
    x = torch.randn(SAMPLES, INPUTS)
    labels = model(x).argmax(1).numpy().astype(np.int64)
    budget = Budget(latency_ratio=0.4)
    return deploy(model, "x86", (x.numpy(), labels), budget, out, epochs=3, precision="fp32", tell=tell)


def learnt_at(bundle: Any) -> list[float]:
    """The epochs at which the report has the loss of recovery."""
    return [step["epoch"] for step in bundle.report["history"] if step["loss"] is not None]


STAGES: Mapping[str, At] = {
    "sensitivity": lambda stage, share: stage.startswith("measuring sensitivity") and share > 0.5,
    "search": lambda stage, share: stage.startswith("searching and"),
    "fitting": lambda stage, share: stage.endswith("fitting weights") and share > 0.5,
    "finalists": lambda stage, share: stage.startswith("trying finalists") and share > 0.5,
    "recovery": lambda stage, share: stage.startswith("recovering") and share > 0.5,
}


@pytest.mark.parametrize("stage", [*STAGES, "measuring the second candidate", "measuring the last file"])
def test_an_interrupted_run_comes_to_the_same_plan_and_redoes_nothing(done: Done, tmp_path: Path, stage: str) -> None:
    whole = run(tmp_path / "whole")
    once, runs = Counter(done.counts), list(done.meter.together)
    assert once["sensed"] and once["fitted"] and once["learnt"] and len(runs) >= 3
    for left in (tmp_path / "cache" / "losses").iterdir():
        left.unlink()
    done.clear()

    second = [names for names in runs if any(name.startswith("candidate") for name in names)][1]
    done.meter.ends = lambda names: names == {
        "measuring the second candidate": second, "measuring the last file": runs[-1],
    }.get(stage)  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "bundle", STAGES.get(stage, lambda stage, share: False))
    assert not (tmp_path / "bundle").exists()
    done.meter.ends = lambda names: False
    bundle = run(tmp_path / "bundle")
    assert bundle.plan.digest == whole.plan.digest
    assert learnt_at(bundle) == learnt_at(whole) != []
    assert sorted(done.meter.together) == sorted(runs)
    assert done.counts["sensed"] <= once["sensed"] + 1 and done.counts["fitted"] <= once["fitted"] + 1
    assert done.counts["learnt"] <= once["learnt"] + 1
    assert not any((tmp_path / "cache" / "runs").iterdir())


def test_the_next_run_measures_anew(done: Done, tmp_path: Path) -> None:
    run(tmp_path / "one")
    runs = list(done.meter.together)
    done.clear()
    run(tmp_path / "two")
    assert sorted(done.meter.together) == sorted(runs) and not done.counts["sensed"]
