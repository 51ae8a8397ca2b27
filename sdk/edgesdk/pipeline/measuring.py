"""Files measured beside the dense model, and set right by it where the device was disturbed all the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import exp, log

from edgesdk.core.artifact import Artifact
from edgesdk.core.pairing import Ratio
from edgesdk.core.plan import INT8
from edgesdk.core.report import DENSE, Measurement, Report
from edgesdk.pipeline.anchoring import DENSE_INT8, UNSURE
from edgesdk.pipeline.study import Study

SURE = 0.015  # up to which what the dense model takes undisturbed is gone by
LEFT = 0.02  # what is uncertain of a latency that was set right
NOTE = "the device was disturbed all the time: what it takes undisturbed is told by what the dense model took meanwhile"


def measure_beside(
    study: Study, files: Mapping[str, Artifact], thorough: bool = False, anew: bool = False
) -> Mapping[str, Measurement]:
    """What ``files`` and the dense model take, from one interleaved run.

    Kernels of different kinds are not slowed down alike: where the device was disturbed all the time, a run tells what
    files take undisturbed to some ten per cent only, and so the share of the dense model's that an integer one takes.
    What the dense model took before, undisturbed, in float and in integers, tells by how much kernels like these are
    slowed down: it is measured again with both. Where it is to be ``anew``, no run that was kept serves. Raises
    ``Outdated`` as :meth:`Study.check_state` does.
    """
    every = {DENSE: study.shared_file, **files}
    measured = study.measure(every, thorough, anew)
    study.check_state()
    if not _is_unsure(measured) or not _can_be_set_right(study):
        return measured
    measured = dict(study.measure({**every, DENSE_INT8: study.whole.artifact}, thorough, anew))
    if _is_unsure(measured):
        slowed = {name: log(measured[name].latency_ms() / study.anchors[name].latency_ms()) for name in study.anchors}
        whole = _weigh_integers(study.whole.artifact)
        steeper = (slowed[DENSE_INT8] - slowed[DENSE]) / whole
        for name, artifact in every.items():
            measured[name] = _set_right(measured[name], slowed[DENSE], steeper * _weigh_integers(artifact))
    del measured[DENSE_INT8]
    return measured


def _is_unsure(measured: Mapping[str, Measurement]) -> bool:
    return max(measurement.error for measurement in measured.values()) > UNSURE


def _can_be_set_right(study: Study) -> bool:
    """Whether it is known what the dense model takes undisturbed in this runtime, and that in integers."""
    sure = all(anchor.error <= SURE for anchor in study.anchors.values())
    return study.shares_own and sure and bool(study.whole.options)


def _weigh_integers(artifact: Artifact) -> float:
    """The share of the multiplications that runs in integers."""
    if artifact.graph is None:
        return 0.0
    macs = {layer.name: layer.macs for layer in artifact.graph.layers}
    whole = sum(macs[name] for name, option in artifact.options.items() if option.precision == INT8)
    return whole / max(1, sum(macs.values()))


def _set_right(measured: Measurement, slowed: float, beyond: float) -> Measurement:
    """``measured`` without the slowdown, as a logarithm: the dense model's, and what it is ``beyond`` that."""
    if not isinstance(measured, Report) or measured.undisturbed is None:
        return measured
    quiet = measured.undisturbed
    return replace(
        measured,
        undisturbed=replace(quiet, ms=quiet.ms * exp(-slowed - beyond), error=min(quiet.error, LEFT)),
        ratios={name: _divide(ratio, exp(beyond)) for name, ratio in measured.ratios.items() if name == DENSE},
        notes=(*measured.notes, NOTE),
    )


def _divide(ratio: Ratio, by: float) -> Ratio:
    """``ratio`` over ``by``, which is known to ``LEFT``, as the interval then says."""
    wide = 2 * LEFT
    median = ratio.median / by
    return Ratio(median, median * exp(-wide), median * exp(wide), ratio.rounds)
