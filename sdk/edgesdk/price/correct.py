"""What whole networks were measured at corrects the prices of their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgesdk.plan import FP32, INT8

TRUST = 0.3  # standard deviation of the priors on the scales, against relative errors of whole networks of:
NOISE = 0.02


@dataclass(frozen=True)
class Observation:
    """A whole network: uncorrected latency of its parts in each precision, and what it was measured at.

    Latencies in ms; ``memory_bytes`` and ``size_bytes`` are the measured figure less the sum of the parts' prices.
    """

    float_ms: float
    integer_ms: float
    measured_ms: float
    memory_bytes: float
    size_bytes: float


@dataclass(frozen=True)
class Correction:
    """Network latency = ``latency_ms`` + scale per precision x sum of parts; bytes = offset + sum of parts."""

    latency_ms: float = 0.0
    scales: dict[str, float] = field(default_factory=lambda: {FP32: 1.0, INT8: 1.0})
    memory_bytes: float = 0.0
    size_bytes: float = 0.0

    def scale(self, precision: str) -> float:
        return self.scales[precision]


def fit(observations: Sequence[Observation], fixed_ms: float = 0.0) -> Correction:
    """The correction under which ``observations`` are most likely.

    Least squares on relative errors with Gaussian priors: each scale near 1, the constant near ``fixed_ms`` (what has
    no price of its own). Scales and the constant never become negative.
    """
    if not observations:
        return Correction(latency_ms=fixed_ms)
    rows, right = [], []
    for seen in observations:
        rows.append(np.array([1.0, seen.float_ms, seen.integer_ms]) / (seen.measured_ms * NOISE))
        right.append(1 / NOISE)
    spread = max(fixed_ms, 0.1 * min(seen.measured_ms for seen in observations))
    for index, (prior, deviation) in enumerate([(fixed_ms, spread), (1.0, TRUST), (1.0, TRUST)]):
        row = np.zeros(3)
        row[index] = 1 / deviation
        rows.append(row)
        right.append(prior / deviation)
    solution = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    constant, float_scale, integer_scale = (float(v) for v in np.maximum(solution, (0.0, 0.05, 0.05)))
    return Correction(
        constant,
        {FP32: float_scale, INT8: integer_scale},
        float(np.mean([seen.memory_bytes for seen in observations])),
        float(np.mean([seen.size_bytes for seen in observations])),
    )
