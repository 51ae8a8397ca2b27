"""Figures of before the device was seen in a faster state, or that are unsure, are measured again, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedMeter, anchor

from edgesdk.core.report import Prediction, Report, Undisturbed, speedup
from edgesdk.pipeline.anchoring import UNSURE, measure_dense
from edgesdk.pipeline.deadline import Deadline
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


@pytest.mark.parametrize(
    ("error", "mode", "left", "again"),
    [
        (UNSURE, "rapid", None, False), (1.1 * UNSURE, "rapid", None, True), (1.1 * UNSURE, "brief", None, False),
        (1.1 * UNSURE, "rapid", 0.0, False), (1.1 * UNSURE, "rapid", 1e6, True),
    ],
)  # fmt: skip
def test_an_unsure_dense_model_is_measured_once_more_after_pricing_if_there_is_time(
    meter: ScriptedMeter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float, mode: str, left: float | None,
    again: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("EDGESDK_MODE", mode)
    meter.error = error
    deadline = Deadline(left)
    anchored = anchor([meter], tmp_path, deadline=deadline)
    kept = tuple(replace(setup, measured=MeasuredRuns(tmp_path / "runs")) for setup in anchored.setups)
    measure_dense(kept, anchored.dense, anchored.whole)  # an interrupted run has kept it
    runs, meter.error = len(meter.runs), 0.01
    (study,) = replace(anchored, setups=kept).study()
    assert len(meter.runs) == runs + again
    assert study.dense.error == (0.01 if again else error)


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


@pytest.mark.parametrize("slower", ["litert", "openvino"])
def test_of_one_runtime_shares_stay_those_of_the_fastest_dense_model_when_it_is_renewed(
    tmp_path: Path, slower: str
) -> None:
    """A point of a front is built in its runtime alone, and its budget is a share of another's dense model."""
    paces = {"onnxruntime": 1.0, slower: 1.4}
    meters = [ScriptedMeter(paces=paces, runtime=runtime, reference_ms=BEFORE) for runtime in paces]
    every = anchor(meters, tmp_path)
    alone, fastest = every.select(slower), every.select("onnxruntime")
    assert (alone.beside and alone.beside.runtime, fastest.beside) == ("onnxruntime", None)
    for again in (alone, alone.renew(), alone.renew().renew()):
        study = again.study_whole_layers()[0]
        assert study.shared_file.runtime == "onnxruntime" and not study.shares_own
        ratio = study.anchors["dense"].cost().latency_ratio
        assert ratio == pytest.approx(1.4, rel=0.05)
        assert study.anchors["dense"].latency_ms() / study.dense.latency_ms() == pytest.approx(1.4, rel=0.05)
