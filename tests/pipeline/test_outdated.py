"""Figures that were measured before the device was seen in a faster state are measured again, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedMeter, anchor

from edgesdk.core.report import Prediction, Report, Undisturbed, speedup
from edgesdk.pipeline.anchoring import measure_dense
from edgesdk.pipeline.measured import MeasuredRuns
from edgesdk.pipeline.study import Anchored

BEFORE = 0.02  # ms that the references took
NOW = {"the same": BEFORE, "a little faster": BEFORE / 1.05, "slower": 1.5 * BEFORE, "faster": BEFORE / 1.3}
TIMES = {"the same": 1.0, "a little faster": 1.0, "slower": 1.0, "faster": 1.3}


@pytest.fixture
def meter() -> ScriptedMeter:
    return ScriptedMeter(measured=True, reference_ms=BEFORE)


@pytest.fixture
def anchored(meter: ScriptedMeter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Anchored:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGESDK_MODE", "rapid")
    return anchor([meter], tmp_path)


@pytest.mark.parametrize("now", NOW)
def test_how_many_times_as_fast_a_device_turned_out(anchored: Anchored, now: str) -> None:
    (measured,) = (anchor.shared for anchor in anchored.anchors)
    assert isinstance(measured, Report) and isinstance(measured.undisturbed, Undisturbed)
    assert speedup([measured], NOW[now]) == pytest.approx(TIMES[now])
    unknown = replace(measured, undisturbed=None)
    assert speedup([unknown, measured], NOW[now]) == pytest.approx(TIMES[now])
    assert speedup([unknown], NOW[now]) == speedup([], NOW[now]) == speedup([measured], None) == 1.0


def test_a_prediction_is_of_no_state(tmp_path: Path) -> None:
    (own,) = anchor([ScriptedMeter(reference_ms=BEFORE)], tmp_path).anchors
    assert isinstance(own.shared, Prediction) and speedup([own.shared], BEFORE / 2) == 1.0


@pytest.mark.parametrize("mode", ["rapid", "brief"])
@pytest.mark.parametrize("now", NOW)
def test_the_dense_model_is_measured_again_in_a_faster_state(
    anchored: Anchored, meter: ScriptedMeter, monkeypatch: pytest.MonkeyPatch, now: str, mode: str
) -> None:
    monkeypatch.setenv("EDGESDK_MODE", mode)
    meter.reference_ms, runs = NOW[now], len(meter.runs)
    (study,) = anchored.study()
    again = now == "faster" and mode == "rapid"  # brief figures are rough anyway
    assert len(meter.runs) == runs + again
    assert isinstance(study.dense, Report) and study.dense.undisturbed is not None
    assert study.dense.undisturbed.reference_ms == (NOW[now] if again else BEFORE)


@pytest.mark.parametrize("now", NOW)
def test_what_a_run_kept_of_the_dense_model_serves_in_the_same_state_alone(
    anchored: Anchored, meter: ScriptedMeter, now: str
) -> None:
    meter.reference_ms, runs = NOW[now], len(meter.runs)
    measure_dense(anchored.setups, anchored.dense, anchored.whole, again=False)
    assert len(meter.runs) == runs + (now == "faster")


@pytest.mark.parametrize("now", NOW)
def test_what_an_interrupted_run_measured_is_taken_up_in_the_same_state_alone(
    anchored: Anchored, meter: ScriptedMeter, tmp_path: Path, now: str
) -> None:
    setup = replace(anchored.setups[0], measured=MeasuredRuns(tmp_path / "runs"))
    files = {"dense": anchored.dense[0].artifact}
    first = setup.measure(files)
    meter.reference_ms, runs = NOW[now], len(meter.runs)
    second = setup.measure(files)
    assert len(meter.runs) == runs + (now == "faster")
    assert (second == first) == (now != "faster")
