"""Layers that a plan has in integers and that run no faster so: where engines are built, they are left in floats.

Around an integer layer there are a QuantizeLinear and a DequantizeLinear. What a builder of engines fuses these into it
tells only once it is built; where they stay layers of their own they cost more than integers bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget, show
from edgesdk.core.errors import DeviceError
from edgesdk.core.kernels import find_slower
from edgesdk.core.plan import INT8, Option, Plan
from edgesdk.core.report import Measurement
from edgesdk.core.runtime import find_runtime
from edgesdk.network.network import Network
from edgesdk.pipeline.measuring import measure_beside
from edgesdk.pipeline.study import Study

REASON = "in half precision: measured no slower there than in integers"


@dataclass(frozen=True)
class Paired:
    """A plan with the file that it makes and what that takes, its integer layers being those that gain by it."""

    plan: Plan
    artifact: Artifact
    measured: Measurement


def keep_faster(study: Study, plan: Plan, network: Network, artifact: Artifact, budget: Budget) -> Paired | None:
    """``plan``, which makes ``network`` and the ``artifact``, with the layers in integers that measure faster so.

    The file is measured in one interleaved run with the same in floats and, by the layers' own times in both engines,
    with the integers left out that gain nothing; the fastest within the other bounds of ``budget`` stays. ``None``
    where nothing is to be chosen: the runtime builds no engines, nothing runs, or there are no integers.
    """
    whole = {name for name, option in artifact.options.items() if option.precision == INT8}
    if study.predicts or not find_runtime(study.runtime).engines or not whole:
        return None
    files = {"integers": artifact, "floats": _write(study, network, artifact, whole)}
    slower = _find_slower(study, files, dict.fromkeys(artifact.options, ())) & whole
    if slower and slower != whole:
        files["mixed"] = _write(study, network, artifact, slower)
    measured = measure_beside(study, files)
    chosen = _choose(files, measured, budget)
    left = whole - {name for name, option in files[chosen].options.items() if option.precision == INT8}
    if left:
        gain = measured["integers"].latency_ms() - measured[chosen].latency_ms()
        told = show("latency_ms", measured[chosen].latency_ms()), show("latency_ms", gain)
        study.corrections.notes.append(
            f"{len(left)} of {len(whole)} layers stay in half precision: the file takes {told[0]}, {told[1]} less than "
            "with all of them in integers"
        )
    return Paired(_without(plan, left), files[chosen], measured[chosen])


def _choose(files: Mapping[str, Artifact], measured: Mapping[str, Measurement], budget: Budget) -> str:
    """The fastest of ``files`` that keeps the bounds on all but latency, where one does; of equals that in floats."""
    bounds = replace(budget, latency_ms=None, latency_ratio=None)
    kept = [name for name in files if not bounds.bounds or bounds.is_met_by(measured[name].cost(budget))]
    return min(reversed(kept or list(files)), key=lambda name: measured[name].latency_ms())


def _find_slower(study: Study, files: Mapping[str, Artifact], layers: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The layers whose kernels take no less in integers; none where the runtime does not tell."""
    try:
        profiles = {name: study.meter.profile(file, layers) for name, file in files.items()}
    except DeviceError:
        return set()
    integers, floats = profiles["integers"], profiles["floats"]
    return set() if integers is None or floats is None else find_slower(integers.kernels, floats.kernels)


def _write(study: Study, network: Network, artifact: Artifact, floats: set[str]) -> Artifact:
    """The file of ``artifact`` with the layers in ``floats`` as they were before they were integers."""
    options = {name: _as_float(option) if name in floats else option for name, option in artifact.options.items()}
    name = f"{artifact.path.stem}-{len(floats)}-floats"
    return study.write_file(study.quantize(network, options), options, name)


def _without(plan: Plan, floats: set[str]) -> Plan:
    layers = tuple(
        replace(layer, option=_as_float(layer.option), reason=REASON) if layer.name in floats else layer
        for layer in plan.layers
    )
    return replace(plan, layers=layers)


def _as_float(option: Option) -> Option:
    return Option(form=option.form)
