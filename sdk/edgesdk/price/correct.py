"""What whole networks were measured at corrects the prices of their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from edgesdk.core.plan import FP32, INT8

TRUST = 0.3  # standard deviation of the priors on the scales, against relative errors of whole networks of:
NOISE = 0.02
PAGES = 0.05  # what memory of one file differs by from process to process
CLOSE, WIDE = 0.2, 1.0  # how far an account of bytes may be off: one that follows the runtime, and one that does not
SMALLEST = 0.05  # a scale of bytes
NEAR = (0.6, 1.6)  # a scale of latency: parts that are off by more are wrong, and are measured again instead
SETTLED = 1e-15  # a sweep that moves no coefficient further ends it
SWEEPS = 200
PAGE = 4096.0  # bytes: memory is counted in pages, and a tiny network may add none


@dataclass(frozen=True)
class Observation:
    """A whole network: what its parts add up to at uncorrected prices, and what it was measured at.

    ``float_ms`` and ``integer_ms`` are its parts in each precision; memory and size are an account of the whole.
    Latencies in ms, memory and size in bytes.
    """

    float_ms: float
    integer_ms: float
    measured_ms: float
    account_memory_bytes: float
    memory_bytes: float
    account_size_bytes: float
    size_bytes: float


@dataclass(frozen=True)
class Correction:
    """Network latency = ``latency_ms`` + scale per precision x sum of parts; bytes = offset + scale x account."""

    latency_ms: float = 0.0
    scales: Mapping[str, float] = field(default_factory=lambda: {FP32: 1.0, INT8: 1.0})
    memory_bytes: float = 0.0
    memory_scale: float = 1.0
    size_bytes: float = 0.0
    size_scale: float = 1.0

    def scale(self, precision: str) -> float:
        """What a latency in ``precision`` is multiplied with."""
        return self.scales[precision]


def fit(
    observations: Sequence[Observation], fixed_ms: float = 0.0, most_ms: float = inf, trusted: bool = False
) -> Correction:
    """The correction under which ``observations`` are most likely. ``trusted`` is an account that follows the runtime.

    Least squares on relative errors with Gaussian priors: each scale near 1, constants loose (the one of latency near
    ``fixed_ms``, what has no price of its own). Scales and constants never become negative; those of latency stay near
    1, and its constant below ``most_ms``.
    """
    if not observations:
        return Correction(latency_ms=fixed_ms)
    least = min(seen.measured_ms for seen in observations)
    constant, float_scale, integer_scale = _regression(
        [(1.0, seen.float_ms, seen.integer_ms) for seen in observations],
        [seen.measured_ms for seen in observations],
        [(fixed_ms, max(fixed_ms, 0.1 * least)), (1.0, TRUST), (1.0, TRUST)],
        [(0.0, most_ms), NEAR, NEAR],
    )
    memory = _offset_and_scale(
        [(o.account_memory_bytes, o.memory_bytes) for o in observations], CLOSE if trusted else WIDE, PAGES
    )
    size = _offset_and_scale([(o.account_size_bytes, o.size_bytes) for o in observations], CLOSE, NOISE)
    return Correction(constant, {FP32: float_scale, INT8: integer_scale}, *memory, *size)


def _offset_and_scale(seen: Sequence[tuple[float, float]], deviation: float, noise: float) -> tuple[float, float]:
    """Bytes = offset + scale x account, the scale near one by ``deviation``, the offset by as much of the figures."""
    measured = [figure for _, figure in seen]
    offset, scale = _regression(
        [(1.0, account) for account, _ in seen],
        measured,
        [(0.0, deviation * max(PAGE, *measured)), (1.0, deviation)],
        [(0.0, inf), (SMALLEST, inf)],
        noise,
        PAGE,
    )
    return offset, scale


def _regression(
    rows: Sequence[tuple[float, ...]],
    measured: Sequence[float],
    priors: Sequence[tuple[float, float]],
    limits: Sequence[tuple[float, float]],
    noise: float = NOISE,
    least: float = 0.0,
) -> list[float]:
    """Coefficients of ``rows`` for ``measured`` with relative noise and priors (mean, deviation), within limits.

    What was measured at less than ``least`` has the noise of that. Coordinate descent in units of the priors'
    deviations: a convex problem in a box.
    """
    scale = np.array([deviation for _, deviation in priors])
    errors = [noise * max(value, least) for value in measured]
    left = np.array([np.array(row) * scale / error for row, error in zip(rows, errors, strict=True)])
    left = np.vstack([left, np.eye(len(priors))])
    exact = [value / error for value, error in zip(measured, errors, strict=True)]
    right = np.array(exact + [mean / deviation for mean, deviation in priors])
    low, high = (np.array(ends) / scale for ends in zip(*limits, strict=True))
    free = np.linalg.lstsq(left, right, rcond=None)[0]
    factors = np.clip(free, low, high)
    for _ in range(SWEEPS if (factors != free).any() else 0):  # where no limit is met that is the least already
        before = factors.copy()
        for index in range(len(factors)):
            column = left[:, index]
            rest = right - left @ factors + column * factors[index]
            factors[index] = min(max(column @ rest / (column @ column), low[index]), high[index])
        if (abs(factors - before) <= SETTLED * abs(factors)).all():
            break
    return [min(max(float(value), first), last) for value, (first, last) in zip(factors * scale, limits, strict=True)]
