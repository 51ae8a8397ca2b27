"""A front that was drawn before, and the prices of today."""

from __future__ import annotations

import warnings

from edgesdk.core.budget import Budget, Cost, show
from edgesdk.core.errors import EdgeSdkWarning
from edgesdk.core.report import DENSE
from edgesdk.pipeline.candidates import Attempt
from edgesdk.pipeline.front import PLAN, ROOM, plan_at
from edgesdk.pipeline.planning import plan_full_width
from edgesdk.pipeline.setup import digest_of
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
    """Warn where the weights are others, or where the best plan at the share of the dense model's latency that
    ``point`` has is another one today; of the dense model and its integer form where these are."""
    _warn_of_weights(point, study)
    best = point.kind == PLAN
    try:
        if best:
            share = point.own_share * (1 + ROOM)
            now = plan_at(study, bounds, share * study.anchors[DENSE].latency_ms()).solution
        else:
            now = plan_full_width(study, {} if point.kind == DENSE else study.whole.options).solution
    except Unreachable as error:
        _warn_of_prices(point, error.fact)
    else:
        slower = now.cost.latency_ms / point.predicted.latency_ms - 1
        _compare(point, slower, now.loss, now.cost, now.loss, best)


def warn_of_loose(point: Point, taken: Attempt) -> None:
    """The same where nothing is searched for, as a model that is there keeps the bound of ``point`` and is ``taken``.

    That may be another than the point's without any change: what is compared then is the dense model's latency, then
    and now.
    """
    _warn_of_weights(point, taken.candidate.study)
    same = taken.search == point.kind
    then_ms, now_ms = point.predicted.latency_ms / point.own_share, taken.candidate.study.anchors[DENSE].latency_ms()
    loss = taken.loss if same else point.loss
    _compare(point, now_ms / then_ms - 1, loss, taken.candidate.plan.predicted, taken.loss, not same)


def _warn_of_weights(point: Point, study: Study) -> None:
    """Warn where the model's weights are not those that the front of ``point`` was made of."""
    if point.weights and point.weights != digest_of(study.network.module):
        _warn("the weights are not those that the front was made of")


def _compare(point: Point, slower: float, loss: float, now: Cost, now_loss: float, best: bool) -> None:
    """Warn where a latency is that much ``slower``, or a ``loss`` that far from the point's, that it tells; ``now`` and
    ``now_loss`` are what to show."""
    worse = (loss - point.loss) / (point.loss or 1)
    if max(abs(slower), abs(worse)) > DRIFT:
        _warn_of_prices(point, f"{'the best there is' if best else 'it is'} {_figures(now, now_loss)} now")


def _warn_of_prices(point: Point, after: str) -> None:
    before = f"point {point.number} was {_figures(point.predicted, point.loss)}"
    _warn(f"prices or data have changed since the front was made: {before}, {after}")


def _warn(fact: str) -> None:
    warnings.warn(f"{fact}; edgesdk sweep draws it anew", EdgeSdkWarning, stacklevel=6)


def _figures(cost: Cost, loss: float) -> str:
    return f"{show('latency_ms', cost.latency_ms)} at a loss of {loss:.2g}"
