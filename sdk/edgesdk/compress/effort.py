"""How much is measured of what choices cost in accuracy: what keeps the work within bounds, however large a network is.

Work is counted in multiplications, not in seconds: the same network is measured alike on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from edgesdk.core.graph import WEIGHTED, Graph, Layer
from edgesdk.price.operators import widths

MOST_SAMPLES, LEAST_SAMPLES = 128, 32
FEWEST_SAMPLES, PASSES_WORK, PASSES = 4, 4e11, 7  # where a few passes over ``LEAST_SAMPLES`` are more work than that
WORK = 5e11  # multiplications in all: half a minute to a minute of a core
ELEMENT = 100  # multiplications in whose time an element is written, normalized and read
CALL = 1e5  # multiplications in whose time a layer is called, for each of the fewest samples
CALIBRATING_WORK = 3e10  # a pass over all samples, beyond which nothing is calibrated for the size of its file alone
RANKING_WORK, RANKING_PASSES = 2e11, 4  # forward, twice as much backward, and forward for what readers lose
OPTIONS = {True: 3, False: 1}  # of a layer with and without weights that are measured, about
BEYOND = 3  # horizons that a step takes: it ends at the first stop behind one, and fits what reads the change


@dataclass(frozen=True)
class Effort:
    """On how many ``samples`` each choice is measured, and for how much work behind it, per sample, the network runs.

    What lies beyond the ``horizon`` is told by the curvature (:mod:`edgesdk.compress.curvature`); without an end
    everything runs. ``ranking`` is on how many channels are ranked at most.
    """

    samples: int
    horizon: float
    ranking: int

    @classmethod
    def of(cls, graph: Graph) -> Effort:
        """As much as keeps to ``WORK`` for ``graph``: fewer samples first, for these cost least of the order."""
        order = {layer.name: place for place, layer in enumerate(graph.layers)}
        rest = [0.0]
        for layer in reversed(graph.layers):
            rest.append(rest[-1] + work(layer))
        rest.reverse()
        steps = [(order[layer.name], OPTIONS[layer.kind in WEIGHTED]) for layer in graph.layers]
        steps += [(order[branch.join], 1) for branch in graph.branches]
        steps += [
            (min(order[name] for name in group.layers), len(widths(group.size, group.step)) - 1)
            for group in graph.groups
            if group.fixed is None
        ]
        whole = sum(count * rest[place] for place, count in steps)
        least = min(LEAST_SAMPLES, max(FEWEST_SAMPLES, int(PASSES_WORK / (PASSES * max(1.0, rest[0])))))
        ranking = max(least, int(RANKING_WORK / (RANKING_PASSES * max(1.0, rest[0]))))
        samples = min(MOST_SAMPLES, max(least, int(WORK / max(1.0, whole))))
        if samples * whole <= WORK:
            return cls(samples, inf, ranking)
        return cls(samples, WORK / (samples * BEYOND * sum(count for _, count in steps)), ranking)


def work(layer: Layer) -> float:
    """What a layer takes for one sample."""
    return layer.macs + ELEMENT * layer.elements + CALL


def is_long(graph: Graph, samples: int) -> bool:
    """Whether calibrating on so many samples takes longer than the size of a file, to the last byte, is worth."""
    return samples * sum(map(work, graph.layers)) > CALIBRATING_WORK
