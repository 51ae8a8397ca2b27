"""The dense model's own figures, float and integer, which anchor the prices of all that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.report import DENSE, Measurement, Report, is_predicted
from edgesdk.core.serialize import digest, dumps, from_json, loads, write
from edgesdk.devices.bench import usual_mode
from edgesdk.pipeline.setup import DenseFile, IntegerModel, Setup, digest_of

DENSE_INT8 = "dense int8"
SCHEMA = 2  # of what is kept of a measured dense model: 2 has its undisturbed latency


def measure_dense(setup: Setup, dense: DenseFile, whole: IntegerModel, again: bool = True) -> Mapping[str, Measurement]:
    """The figures of the dense model, float and with every layer integer that can be, from one interleaved run.

    Unless ``again``, those of an earlier run on this device serve. A prediction is made anew each time.
    """
    setup.tell(f"measuring the dense model ({setup.runtime})", None)
    key = [
        SCHEMA, setup.graph.digest, digest_of(setup.network.module), setup.meter.conditions, usual_mode(),
        sorted(whole.options),
    ]  # fmt: skip
    path = cache_folder() / "anchors" / f"{digest(key)[:16]}.json"
    if not again and (kept := read_anchors(path)) is not None:
        return kept
    measured = setup.measure({DENSE: dense.artifact, DENSE_INT8: whole.artifact})
    if all(measurement.valid and not is_predicted(measurement) for measurement in measured.values()):
        write(path, dumps(measured))
    return measured


def read_anchors(path: Path) -> dict[str, Report] | None:
    """The reports that were kept at ``path``; ``None`` where there are none that can be read."""
    try:
        content = loads(path.read_text())
        return {name: from_json(Report, content[name]) for name in (DENSE, DENSE_INT8)}
    except (OSError, ValueError, KeyError, TypeError, EdgeSdkError):
        return None
