"""What an engine on the device answers itself, held against the file in the runtime that stands in for it here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import FidelityError
from edgesdk.core.runtime import find_runtime
from edgesdk.devices.answers import Arrays, open_here
from edgesdk.network.network import Batch, tensors
from edgesdk.pipeline.study import Study
from edgesdk_targets.agent.health import TOLERANCE

SAMPLES = 8  # each in a process that loads the engine: some seconds


def check_own_answers(study: Study, artifact: Artifact, batches: Sequence[Batch]) -> str | None:
    """How far the engine's answers to the first samples of ``batches`` are from the file's here, in words.

    The distance is the root mean square of the difference over the spread of the file's outputs, that of the output
    which is furthest away. ``None`` where the runtime builds no engines, or nothing runs. Raises ``FidelityError``
    beyond the tolerance that the device's own health check has.
    """
    if study.predicts or not find_runtime(study.runtime).engines:
        return None
    samples = _first(batches)
    here = open_here(artifact)
    wanted = [here(sample).outputs for sample in samples]
    told = study.meter.answer(artifact, samples)
    name = f"{study.runtime} {study.meter.version}"
    error = max(_distance(*pair) for pair in zip(_columns(told), _columns(wanted), strict=True))
    if not error <= TOLERANCE:
        fact = f"the engine of {name} answers otherwise than the file: it is {error:.2g} of the outputs' spread off"
        remedy = "half precision may overflow in it: choose another --runtime, or leave --dla out"
        raise FidelityError(fact, remedy, error=error)
    alike = sum(_decides_alike(*pair) for pair in zip(told, wanted, strict=True))
    return (
        f"the engine of {name} answers {len(samples)} held-out samples itself: it is {error:.2g} of the outputs' "
        f"spread off the file here, and its largest outputs are the same in {alike} of {len(samples)}"
    )


def _first(batches: Sequence[Batch]) -> list[Arrays]:
    rows: list[Arrays] = []
    for batch in batches:
        columns = [tensor.numpy() for tensor in tensors(batch)]
        for row in range(len(columns[0])):
            if len(rows) == SAMPLES:
                return rows
            rows.append([column[row : row + 1] for column in columns])
    return rows


def _columns(answers: Sequence[Arrays]) -> list[NDArray[Any]]:
    """Each output of all samples."""
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*answers, strict=True)]


def _distance(own: NDArray[Any], wanted: NDArray[Any]) -> float:
    if own.shape != wanted.shape:
        return float("inf")
    return float(np.sqrt(np.mean((own - wanted) ** 2)) / max(float(wanted.std()), 1e-12))


def _decides_alike(own: Arrays, wanted: Arrays) -> bool:
    return all(np.argmax(a) == np.argmax(b) for a, b in zip(own, wanted, strict=True))
