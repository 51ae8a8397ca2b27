"""`--track`: a deployment as a run of MLflow, in a folder, and of TensorBoard, as these read it back themselves."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import page_documents
import pytest
from running import Run as Command

from edgesdk.bundle.bundle import Bundle
from edgesdk.core.errors import EdgeSdkWarning, StorageError, UsageError
from edgesdk.workflows.tracking import BATCH, DOCUMENTS, LONGEST, SETTINGS, Run, keep_run, open_tracker

KINDS = ("measured", "predicted")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tracker sets of the environment is gone afterwards."""
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def bundle(deployed: tuple[Path, str], tmp_path: Path) -> Bundle:
    """A bundle with something in every field of its report, measured."""
    copied = tmp_path / "a bundle"
    shutil.copytree(deployed[0], copied)
    documents = page_documents.full()
    return replace(Bundle.open(copied), report=documents.report)


def test_a_run_is_what_was_asked_what_came_of_it_and_the_files(bundle: Bundle) -> None:
    run, report = Run.of(bundle), bundle.report
    assert run.parameters["target"] == bundle.manifest["target"] and run.parameters["seed"] == "7"
    assert {name for name in run.parameters if name.startswith("budget")} == {
        "budget latency_ratio", "budget size_bytes", "budget max_drop"
    }  # fmt: skip
    assert run.figures["measured/deployed latency_ms"] == 1.25 and run.figures["measured/dense latency_ms"] == 2.6
    assert run.figures["predicted/promised latency_ms"] == report["predicted"]["latency_ms"]
    assert (run.figures["score/dense"], run.figures["score/deployed"]) == (93.25, 92.5)
    assert (run.figures["decisions/lost"], run.figures["decisions/gained"]) == (4, 2)
    assert run.curves == {"recovery/float loss": [2.0, 1.0, 2 / 3], "recovery/int8 loss": [0.75, 0.375, 0.25]}
    assert {file.name for file in run.files} == {"model.onnx", *DOCUMENTS} and all(file.is_file() for file in run.files)
    predicted = Run.of(replace(bundle, report=page_documents.predicted().report))
    assert not any(name.startswith("measured/") for name in predicted.figures), "nothing was"
    assert predicted.figures["predicted/deployed latency_ms"] == 1.25
    long = Run.of(replace(bundle, report={**report, "data": "x" * 10_000}))
    assert len(long.parameters["data"]) == LONGEST


def read_mlflow(folder: Path) -> tuple[dict[str, str], dict[str, float], dict[str, list[float]], set[str]]:
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=folder.as_uri())
    experiment = client.get_experiment_by_name("edgesdk")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    curves = {
        name: [each.value for each in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics if name.startswith("recovery/")
    }  # fmt: skip
    figures = {name: value for name, value in run.data.metrics.items() if name not in curves}
    return run.data.params, figures, curves, {each.path for each in client.list_artifacts(run.info.run_id)}


def read_tensorboard(folder: Path) -> tuple[dict[str, str], dict[str, float], dict[str, list[float]], set[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    messages: Any = plugin_data_pb2  # which has no types
    (place,) = folder.iterdir()
    events: Any = EventAccumulator(str(place))
    events.Reload()
    started = messages.HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    parameters = {name: value.string_value for name, value in started.items()}
    scalars = {name: [each.value for each in events.Scalars(name)] for name in events.Tags()["scalars"]}
    curves = {name: values for name, values in scalars.items() if name.startswith("recovery/")}
    assert "verdict/text_summary" in events.Tags()["tensors"]
    figures = {name: values[-1] for name, values in scalars.items() if name not in curves}
    return parameters, figures, curves, {path.name for path in (place / "files").iterdir()}


READERS = {"mlflow": read_mlflow, "tensorboard": read_tensorboard}


@pytest.mark.parametrize("kind", READERS)
def test_a_tracker_reads_back_what_was_kept(kind: str, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    tracker = open_tracker(f"{kind}:{folder}")
    keep_run(tracker, bundle)
    run = Run.of(bundle)
    parameters, figures, curves, files = READERS[kind](folder)
    assert parameters == run.parameters
    assert figures == pytest.approx(dict(run.figures), rel=1e-6)  # TensorBoard's are of 32 bits
    assert {name: pytest.approx(losses, rel=1e-6) for name, losses in run.curves.items()} == curves
    assert files == {file.name for file in run.files}


def test_many_figures_are_kept_in_requests_of_so_many(bundle: Bundle, tmp_path: Path) -> None:
    losses = [{**bundle.report["history"][-1], "loss": float(number)} for number in range(2 * BATCH + 1)]
    tracker = open_tracker(f"mlflow:{tmp_path / 'runs'}")
    keep_run(tracker, replace(bundle, report={**bundle.report, "history": losses}))
    (curve,) = read_mlflow(tmp_path / "runs")[2].values()
    assert curve == [float(number) for number in range(2 * BATCH + 1)]


def test_what_mlflow_is_told_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that it writes no line of its own to stdout, which is a document's."""
    from mlflow import environment_variables

    own = [name for name in SETTINGS if name.startswith("MLFLOW_")]
    assert "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT" in own
    for name in own:
        monkeypatch.setenv(name, SETTINGS[name])
        known = getattr(environment_variables, name)
        assert known.get() == known.type(int(SETTINGS[name])) if SETTINGS[name].isdigit() else known.get() is True


def test_runs_of_one_second_are_kept_apart(bundle: Bundle, tmp_path: Path) -> None:
    tracker = open_tracker(f"tensorboard:{tmp_path / 'runs'}")
    keep_run(tracker, bundle)
    keep_run(tracker, bundle)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_deployment_is_kept(edgesdk: Command, given: Path, tmp_path: Path) -> None:
    data = ("--data", given / "data.npz", "--target", "pi5", "--epochs", "0", "--max-drop", "100")
    where = ("--out", tmp_path / "bundle", "--track", f"tensorboard:{tmp_path / 'runs'}")
    done = edgesdk("deploy", f"{given / 'models.py'}:Small", *data, *where)
    assert done.code == 0 and "could not be kept" not in done.err
    parameters, figures, _, files = read_tensorboard(tmp_path / "runs")
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert parameters["basis"] == "predicted" and files >= {"report.html", "model.onnx"}
    assert figures["predicted/deployed latency_ms"] == pytest.approx(report["deployed"]["median_ms"])


@pytest.mark.parametrize("spec, says", [
    ("wandb:here", "there is no tracker 'wandb': give mlflow:URI or tensorboard:FOLDER"), ("", "no tracker ''"),
    ("mlflow", "--track mlflow does not say where"), ("tensorboard:", "write it like tensorboard:runs"),
    ("mlflow:nonsense://x", "MLflow cannot be used at nonsense://x"),
    ("mlflow:http://127.0.0.1:9", "MLflow cannot be used at http://127.0.0.1:9"),
])  # fmt: skip
def test_what_is_no_tracker_is_said_before_anything_begins(edgesdk: Command, spec: str, says: str) -> None:
    done = edgesdk("deploy", "models.py:Small", "--data", "data.npz", "--target", "pi5", "--track", spec)
    assert done.code == 2 and says in done.line and not Path("bundle").exists()


@pytest.mark.parametrize("kind", READERS)
def test_a_place_that_cannot_be_written_or_a_package_that_is_not_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((UsageError, StorageError), match=r"cannot (be used|write)"):
        open_tracker(f"{kind}:{tmp_path / 'file'}")
    monkeypatch.setitem(sys.modules, {"mlflow": "mlflow.tracking"}.get(kind, kind), None)
    with pytest.raises(UsageError, match=f"{kind} is not installed: pip install 'edgesdk\\[{kind}\\]'"):
        open_tracker(f"{kind}:{tmp_path / 'runs'}")


def test_a_bundle_is_not_lost_where_its_run_is(bundle: Bundle, tmp_path: Path) -> None:
    tracker = open_tracker(f"tensorboard:{tmp_path / 'runs'}")
    os.rmdir(tmp_path / "runs")
    (tmp_path / "runs").write_text("in the way")
    with pytest.warns(EdgeSdkWarning, match="the bundle is whole, but its run could not be kept"):
        keep_run(tracker, bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Bundle.open(bundle.path).plan == bundle.plan
