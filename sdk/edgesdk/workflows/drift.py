"""A front that was drawn before, and the prices of today."""

from __future__ import annotations

import warnings

from edgesdk.core.budget import Budget, Cost, show
from edgesdk.core.errors import EdgeSdkWarning
from edgesdk.core.report import DENSE
from edgesdk.pipeline.front import ROOM, plan_at
from edgesdk.pipeline.study import Anchored, Study
from edgesdk.solve.milp import Unreachable
from edgesdk.workflows.front import Point

DRIFT = 0.1  # of a point's latency or loss, from which on its prices count as changed


def study_point(point: Point, bounds: Budget, known: Anchored) -> list[Study]:
    """All that a search needs in the runtime of ``point``, once :func:`warn_of_drift` has seen it."""
    studies = known.study()
    warn_of_drift(point, bounds, studies[0])
    return studies


def warn_of_drift(point: Point, bounds: Budget, study: Study) -> None:
    """Warn where the best plan at the share of the dense model's latency that ``point`` has is another one today."""
    before = f"point {point.number} was {_figures(point.predicted, point.loss)}"
    try:
        share = point.own_share * (1 + ROOM)
        now = plan_at(study, bounds, share * study.anchors[DENSE].latency_ms()).solution
    except Unreachable as error:
        after = error.fact
    else:
        slower = now.cost.latency_ms / point.predicted.latency_ms - 1
        worse = (now.loss - point.loss) / (point.loss or 1)
        if max(abs(slower), abs(worse)) <= DRIFT:
            return
        after = f"the best there is {_figures(now.cost, now.loss)} now"
    warnings.warn(
        f"prices or weights have changed since the front was made: {before}, {after}; edgesdk sweep draws it anew",
        EdgeSdkWarning, stacklevel=3,
    )  # fmt: skip


def _figures(cost: Cost, loss: float) -> str:
    return f"{show('latency_ms', cost.latency_ms)} at a loss of {loss:.2g}"
