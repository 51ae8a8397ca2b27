"""A deployment as a run of a tracker: what was asked, what came of it, how it learnt, and its files."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import time_ns
from typing import Any, Protocol
from urllib.parse import urlparse

from edgesdk.bundle.bundle import PAGE, Bundle
from edgesdk.core.errors import EdgeSdkWarning, StorageError, UsageError
from edgesdk.core.wording import said
from edgesdk.pages.verdict import latency_ms, verdict

MLFLOW, TENSORBOARD = "mlflow", "tensorboard"
EXPERIMENT = "edgesdk"  # of MLflow, unless its own variable names another
DOCUMENTS = ("manifest.json", "plan.json", "report.json", PAGE)
BATCH = 500  # figures in a request: MLflow takes up to 1,000
LONGEST = 500  # letters of a parameter: MLflow refuses longer ones
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # which else tells its makers of the run
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # else a server that is gone is waited for four minutes
    "GIT_PYTHON_REFRESH": "quiet",  # where there is no git
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which is for what a command prints
}
"""What MLflow is told by its environment, where that does not say otherwise."""


@dataclass(frozen=True)
class Run:
    """What a tracker keeps of a bundle. ``figures`` begin with what they rest on: ``measured/deployed latency_ms``.

    ``curves`` are the losses of recovery, in their order.
    """

    name: str
    text: str
    parameters: Mapping[str, str]
    figures: Mapping[str, float]
    curves: Mapping[str, Sequence[float]]
    files: tuple[Path, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> Run:
        report, manifest = bundle.report, bundle.manifest
        moment = str(manifest["created"]).replace(":", "")
        return cls(
            name=f"{bundle.path.resolve().name}-{moment}",
            text="\n\n".join(verdict(report, manifest)),
            parameters={name: str(value)[:LONGEST] for name, value in _list_parameters(bundle).items()},
            figures={name: float(value) for name, value in _list_figures(report).items() if value is not None},
            curves=_list_curves(report.get("history") or ()),
            files=(bundle.model, *(bundle.path / name for name in DOCUMENTS if (bundle.path / name).is_file())),
        )


class Tracker(Protocol):
    """Where runs are kept. Making one raises an ``EdgeSdkError`` where nothing can be kept there."""

    def keep(self, run: Run) -> None:
        """Keep ``run``; what goes wrong is raised as it comes."""
        ...


def open_tracker(spec: str) -> Tracker:
    """The tracker that ``spec`` names: ``mlflow:URI`` or ``tensorboard:FOLDER``.

    Raises ``UsageError`` for another, where its package is not installed, and where it does not answer;
    ``StorageError`` for a folder that cannot be written.
    """
    kind, _, where = spec.partition(":")
    if kind not in TRACKERS:
        raise UsageError(f"there is no tracker {kind!r}", "give mlflow:URI or tensorboard:FOLDER")
    if not where:
        raise UsageError(f"--track {spec} does not say where", f"write it like {EXAMPLES[kind]}")
    return TRACKERS[kind](where)


def keep_run(tracker: Tracker, bundle: Bundle) -> None:
    """Have ``tracker`` keep ``bundle``. A bundle that is there is not lost for that: what fails is warned of."""
    try:
        tracker.keep(Run.of(bundle))
    except Exception as error:  # a tracker raises what it likes
        warnings.warn(
            f"the bundle is whole, but its run could not be kept ({said(error)})", EdgeSdkWarning, stacklevel=2
        )


class MLflow:
    """Runs of an experiment on a server, or in a folder."""

    def __init__(self, uri: str) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        if urlparse(uri).scheme in ("", "file"):  # a folder is asked for by name
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        module = _load("mlflow.tracking", MLFLOW)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        try:
            self.client: Any = module.MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(name)
            self.experiment: str = self.client.create_experiment(name) if found is None else found.experiment_id
        except Exception as error:  # it raises many kinds
            remedy = f"check that it is the URI of a server that answers, or name a folder: {EXAMPLES[MLFLOW]}"
            raise UsageError(f"MLflow cannot be used at {uri} ({said(error)})", remedy) from None

    def keep(self, run: Run) -> None:
        client, made = self.client, self.client.create_run(self.experiment, run_name=run.name)
        number = made.info.run_id
        client.set_tag(number, "mlflow.note.content", run.text)
        entities, now = import_module("mlflow.entities"), time_ns() // 1_000_000
        parameters = [entities.Param(name, value) for name, value in run.parameters.items()]
        points = {**{name: [value] for name, value in run.figures.items()}, **run.curves}
        metrics = [
            entities.Metric(name, value, now + step, step)  # a history is in the order of time
            for name, values in points.items()
            for step, value in enumerate(values)
        ]
        client.log_batch(number, params=parameters)
        for first in range(0, len(metrics), BATCH):
            client.log_batch(number, metrics=metrics[first : first + BATCH])
        for file in run.files:
            client.log_artifact(number, str(file))
        client.set_terminated(number)


class TensorBoard:
    """Folders of events, one for each run, below the one that ``tensorboard --logdir`` is given."""

    def __init__(self, folder: str) -> None:
        self.folder: Path = Path(folder)
        _load("tensorboard", TENSORBOARD)
        self.module: Any = import_module("torch.utils.tensorboard")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {error.strerror}", "give --track another folder") from None
        if not os.access(self.folder, os.W_OK):
            raise StorageError(f"cannot write {folder}: its permissions forbid it", "give --track another folder")

    def keep(self, run: Run) -> None:
        place = self._find_place(run.name)
        writer = self.module.SummaryWriter(str(place))
        writer.add_text("verdict", run.text)
        writer.add_hparams(dict(run.parameters), dict(run.figures), run_name=".")
        for name, losses in run.curves.items():
            for step, loss in enumerate(losses):
                writer.add_scalar(name, loss, step)
        writer.close()
        (place / "files").mkdir()
        for file in run.files:
            shutil.copyfile(file, place / "files" / file.name)

    def _find_place(self, name: str) -> Path:
        """A folder that no run has yet."""
        numbered = (self.folder / (f"{name}-{number}" if number else name) for number in range(1_000_000))
        return next(place for place in numbered if not place.exists())


TRACKERS: Mapping[str, Callable[[str], Tracker]] = {MLFLOW: MLflow, TENSORBOARD: TensorBoard}
EXAMPLES = {MLFLOW: "mlflow:./mlruns or mlflow:http://server:5000", TENSORBOARD: "tensorboard:runs"}


def _load(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(f"{extra} is not installed", f"pip install 'edgesdk[{extra}]', or leave --track out") from None


def _list_parameters(bundle: Bundle) -> dict[str, Any]:
    """What was asked for, and of what."""
    manifest, report = bundle.manifest, bundle.report
    budget = {f"budget {name}": value for name, value in report["budget"].items() if value is not None}
    return {
        "target": manifest["target"], "runtime": manifest["runtime"]["name"],
        "runtime version": manifest["runtime"]["version"], "threads": manifest["threads"], "basis": report["basis"],
        "metric": report["metric"], "data": report["data"], "epochs": report["epochs"], "seed": report["seed"],
        **budget, "plan": manifest["plan"], "graph": manifest["graph"], "edgesdk": manifest["edgesdk"],
    }  # fmt: skip


def _list_figures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """What came of it: what was predicted and what was measured under names of their own."""
    figures: dict[str, float | None] = {}
    sides = {who: (report[who]["basis"], report[who]) for who in ("dense", "deployed")}
    for who, (basis, side) in {**sides, "promised": ("predicted", report["predicted"])}.items():
        figures[f"{basis}/{who} latency_ms"] = side["latency_ms"] if who == "promised" else latency_ms(side)
        for name in ("peak_memory_bytes", "size_bytes"):
            figures[f"{basis}/{who} {name}"] = side.get(name)
        energy: Mapping[str, Any] = side.get("energy") or {}
        figures[f"{basis}/{who} energy_mj"] = side.get("energy_mj") or energy.get("mj")
    score: Mapping[str, Any] = report["score"]
    changes: Mapping[str, Any] = report.get("changes") or {}
    return {
        **figures,
        **{f"score/{who}": score[who] for who in ("dense", "deployed")},
        **{f"decisions/{kind}": changes.get(kind) for kind in ("lost", "gained", "otherwise")},
        "parity/error": report["parity"]["error"],
    }


def _list_curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    curves: dict[str, list[float]] = {}
    for step in history:
        if step.get("loss") is not None:
            curves.setdefault(f"recovery/{step.get('part')} loss", []).append(step["loss"])
    return curves
