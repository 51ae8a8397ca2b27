"""The dense model's own figures, float and integer, which anchor the prices of all that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from edgesdk.core.artifact import Artifact
from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.report import DENSE, Measurement, Prediction, Report, is_predicted
from edgesdk.core.serialize import digest, dumps, from_json, loads, write
from edgesdk.devices.bench import usual_mode
from edgesdk.pipeline.setup import DenseFile, IntegerModel, Setup, digest_of

DENSE_INT8 = "dense int8"
UNSURE = 0.03  # standard error of a latency's logarithm, above which it is set right
SCHEMA = 3  # of what is kept of a measured dense model: 2 has its undisturbed latency, 3 all runs' own median


@dataclass(frozen=True)
class Anchor:
    """What one runtime makes of the dense model, in float (``DENSE``) and with every layer integer that can be.

    ``shared`` is the dense model that shares of latency are of, the fastest of all runtimes that are tried:
    ``shared_file`` in every run. The figures have their share of it.
    """

    figures: Mapping[str, Measurement]
    shared: Measurement
    shared_file: Artifact


def measure_dense(
    setups: Sequence[Setup],
    dense: Sequence[DenseFile],
    whole: Sequence[IntegerModel],
    again: bool = True,
    anew: bool = False,
    beside: Artifact | None = None,
) -> list[Anchor]:
    """What the dense model takes in each of ``setups``, all of it from one interleaved run.

    Shares of latency are of the fastest, or where one is given of that ``beside``, another runtime's file. Unless
    ``again``, the figures of an earlier run on this device serve; unless ``anew``, those that this run kept. A
    prediction is made anew each time, which for a plan takes no more than a file's size.
    """
    first, *_ = setups
    first.tell(f"{first.finding} the dense model ({', '.join(setup.runtime for setup in setups)})", None)
    plain = {_name(DENSE, setup): model.artifact for setup, model in zip(setups, dense, strict=True)}
    if beside is not None:
        plain[f"{DENSE} {beside.runtime}"] = beside
    integer = {_name(DENSE_INT8, setup): (setup, model) for setup, model in zip(setups, whole, strict=True)}

    def write_files() -> dict[str, Artifact]:
        return plain | {
            name: model.sized if setup.predicts and not again else model.artifact
            for name, (setup, model) in integer.items()
        }

    measured = _measure_or_read(first, [*plain, *integer], write_files, _identify(setups, whole, beside), again, anew)
    fastest = min(plain, key=lambda name: measured[name].latency_ms())
    if beside is not None:
        fastest = f"{DENSE} {beside.runtime}"
    return [
        Anchor(
            {kind: _share(measured[_name(kind, setup)], fastest) for kind in (DENSE, DENSE_INT8)},
            _share(measured[fastest], fastest), plain[fastest],
        )
        for setup in setups
    ]  # fmt: skip


def _name(kind: str, setup: Setup) -> str:
    return f"{kind} {setup.runtime}"


def _share(measured: Measurement, fastest: str) -> Measurement:
    """``measured`` with its share of the fastest dense model alone; that one has none."""
    ratios = {DENSE: measured.ratios[fastest]} if fastest in measured.ratios else {}
    return replace(cast("Report | Prediction", measured), ratios=ratios)


def _identify(setups: Sequence[Setup], whole: Sequence[IntegerModel], beside: Artifact | None) -> str:
    """The digest of all that the figures depend on."""
    first, *_ = setups
    every = [[setup.meter.conditions, sorted(model.options)] for setup, model in zip(setups, whole, strict=True)]
    metered = ["energy"] if first.by_energy else []
    shared = [] if beside is None else [beside.runtime]
    return digest([SCHEMA, first.graph.digest, digest_of(first.network.module), usual_mode(), every, *metered, *shared])


def _measure_or_read(
    setup: Setup, names: Sequence[str], write_files: Callable[[], Mapping[str, Artifact]], identity: str, again: bool,
    anew: bool,
) -> Mapping[str, Measurement]:  # fmt: skip
    """The figures by ``names``; the files are written only where they are measured."""
    path = cache_folder() / "anchors" / f"{identity[:16]}.json"
    kept = None if again else read_anchors(path, names)
    if kept is not None and not setup.is_outdated(kept.values()):
        return kept
    measured = setup.measure(write_files(), anew=anew)
    if all(measurement.valid and not is_predicted(measurement) for measurement in measured.values()):
        write(path, dumps(measured))
    return measured


def read_anchors(path: Path, names: Iterable[str]) -> dict[str, Report] | None:
    """The reports of those ``names`` that were kept at ``path``; ``None`` where they are not there, or not readable."""
    try:
        content = loads(path.read_text())
        return {name: from_json(Report, content[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError, EdgeSdkError):
        return None
