"""What is believed of a runtime's constants before a board is measured."""

from __future__ import annotations

import numpy as np

from edgesdk.price.physics import INDEX, TERMS
from edgesdk.price.posterior import Prior

_CONSTANTS = {
    # median and log standard deviation, in units of what the chip can do at its best
    "conv": (1.25, 0.4), "pack": (0.7, 0.8), "store": (1.0, 0.8), "gather": (1.5, 0.7), "segment": (12.0, 0.8),
    "weights": (1.0, 1.0), "depthwise": (4.0, 0.9), "linear": (1.5, 0.6), "pool": (3.0, 1.0),
    "average pool": (3.0, 1.0), "elementwise": (1.0, 0.7), "function": (20.0, 1.0), "copy": (2.0, 1.0),
    "reduce": (2.0, 1.0), "softmax": (30.0, 1.0), "norm": (5.0, 1.0), "matmul": (2.0, 0.8), "recurrent": (3.0, 0.8),
    "quantize": (3.0, 0.8), "unknown": (4.0, 1.5), "memory": (2.0, 0.6), "call": (5000.0, 0.8),
    "network": (30000.0, 1.0), "input": (5.0, 1.5), "serial": (0.1, 0.8), "fork": (8000.0, 0.9),
}  # fmt: skip
assert set(_CONSTANTS) == set(TERMS)


def prior() -> Prior:
    """Before any board: near the chip's best, within a factor of two or so, and microseconds for a call."""
    return Prior(
        np.log([_CONSTANTS[term][0] for term in TERMS]),
        np.array([_CONSTANTS[term][1] for term in TERMS]),
    )


def changed(believed: Prior, term: str, median: float, deviation: float) -> Prior:
    """``believed``, but for one term."""
    medians, deviations = believed.log_median.copy(), believed.deviation.copy()
    medians[INDEX[term]], deviations[INDEX[term]] = np.log(median), deviation
    return Prior(medians, deviations)
