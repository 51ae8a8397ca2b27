"""Whether a new build is less accurate than it may be: by what two bundles recorded, or judged anew on given data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgesdk.bundle.bundle import Bundle
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import UsageError
from edgesdk.core.gating import BASELINE, FAILED, INCOMPARABLE, NEW, PASSED, UNCLEAR, Check
from edgesdk.core.sampling import ALONE, SAME, Decisions, Drop, paired_drop, unpaired_drop
from edgesdk.core.serialize import from_json
from edgesdk.data.data import load_data
from edgesdk.data.metrics import METRICS, TOP_1
from edgesdk.data.targets import BINARY
from edgesdk.data.task import Task
from edgesdk.export.parity import flat_runner
from edgesdk.workflows.bundle_data import load_for

ROUNDING = 1e-9  # of points
SHARES = tuple(METRICS[name].title for name in (TOP_1, BINARY))  # each the mean of figures from 0 to 100, one a sample
AGAIN = "give --data, or deploy both again"


@dataclass(frozen=True)
class Scored:
    """One side of the comparison: its score, by which metric and on which data, and what its error is told by."""

    score: float | None
    metric: str
    data: str
    samples: int | None
    decisions: Decisions | None
    file: str


def judge_scores(sides: Mapping[str, Scored], most: float) -> tuple[Drop | None, tuple[Check, ...]]:
    """By how much the score fell, and whether it may, being at most so many points."""
    limit = f"{most:g} points"
    if len(sides) < 2:
        said = "a model file records no score: give two bundles, or --data"
        return None, (Check("accuracy", INCOMPARABLE, limit, said),)
    new, old = sides[NEW], sides[BASELINE]
    for theirs, own, what in ((new.metric, old.metric, "judged by"), (new.data, old.data, "judged on")):
        if theirs != own:
            said = f"the new one was {what} {theirs}, the baseline {what} {own}"
            return None, (Check("accuracy", INCOMPARABLE, limit, said),)
    if new.score is None or old.score is None:
        return None, (Check("accuracy", INCOMPARABLE, limit, "a bundle records no score"),)
    said = f"{new.score:.2f} of {new.metric}, the baseline {old.score:.2f} ({new.score - old.score:+.2f}"
    drop = _compare(new, old)
    if drop is None:
        said += f"; of how many samples is not recorded: {AGAIN})"
        return None, (Check("accuracy", UNCLEAR, limit, said),)
    if drop.method in (SAME, ALONE):
        said += f"; {drop.method})"
    else:
        said += f"; {-drop.high:+.2f} to {-drop.low:+.2f}, {drop.method}, {drop.samples} samples)"
    return drop, (Check("accuracy", _decide(drop, most), limit, said),)


def _decide(drop: Drop, most: float) -> str:
    """Failed or passed where the whole interval lies on one side of what is allowed."""
    return FAILED if drop.low > most + ROUNDING else PASSED if drop.high <= most + ROUNDING else UNCLEAR


def _compare(new: Scored, old: Scored) -> Drop | None:
    """The drop from ``old`` to ``new`` by the best method that there is; ``None`` where nobody counted the samples."""
    assert new.score is not None and old.score is not None
    if new.file == old.file:
        return Drop(0.0, 0.0, 0.0, old.samples, SAME)
    if new.decisions and old.decisions and new.decisions.labels == old.decisions.labels:
        return paired_drop(new.decisions, old.decisions)
    if not any(title in new.metric for title in SHARES):
        return Drop(old.score - new.score, old.score - new.score, old.score - new.score, old.samples, ALONE)
    if new.samples is None or old.samples is None:
        return None
    return unpaired_drop(new.score, old.score, min(new.samples, old.samples))


def read_scores(bundles: Mapping[str, Bundle]) -> dict[str, Scored]:
    """What each bundle recorded of its score; those of before did not count their samples."""
    return {name: _read(bundle) for name, bundle in bundles.items()}


def _read(bundle: Bundle) -> Scored:
    report = bundle.report
    scores: Mapping[str, Any] = report["score"]
    decisions = scores.get("decisions")
    return Scored(
        scores["deployed"],
        str(report.get("metric")),
        str(report.get("data")),
        scores.get("samples"),
        None if decisions is None else from_json(Decisions, decisions),
        bundle.artifact.digest,
    )


def judge_anew(models: Mapping[str, Artifact], bundles: Mapping[str, Bundle], data: Any) -> dict[str, Scored]:
    """The top-1 accuracy of each file on the test samples of ``data``, run here, with its decisions.

    Raises ``UsageError`` where a bundle is judged by something else, and ``DataError`` for data that do not fit.
    """
    takes = [str(entry["name"]) for bundle in [*bundles.values()][:1] for entry in bundle.manifest["inputs"]]
    first = next(iter(bundles.values()), None)
    loaded = load_data(data, inputs=takes) if first is None else load_for(first, data)
    if not loaded.labelled:
        raise UsageError("--data without labels", "give labels: there is no dense model here to be true to")
    scored: dict[str, Scored] = {}
    for name, model in models.items():
        output = 0
        if name in bundles:
            metric = str(bundles[name].report.get("metric"))
            title, _, wanted = metric.partition(" of the output ")
            if title != METRICS[TOP_1].title:
                fact = f"the {name} bundle is judged by {metric}, which --data cannot tell without the model"
                raise UsageError(fact, "leave --data out: the recorded scores are compared")
            names = [entry["name"] for entry in bundles[name].manifest["outputs"]]
            output = names.index(wanted) if wanted in names else 0
        run = flat_runner(model)
        task = Task(TOP_1, output=output)
        judged = task.judge(run, loaded.test, run)
        samples, decisions = judged.samples, judged.decisions
        scored[name] = Scored(judged.score, task.name, loaded.description, samples, decisions, model.digest)
    return scored
