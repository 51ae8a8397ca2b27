"""By what channels are ranked: which of a group stay when it is cut. A criterion is a function with a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from edgesdk.compress.effort import Effort
from edgesdk.compress.refit import irreplaceable
from edgesdk.compress.sensitivity import importance
from edgesdk.data.targets import first_samples
from edgesdk.data.task import Task
from edgesdk.network.network import Batch, Network
from edgesdk.techniques.importance import together

Samples = Sequence[tuple[Batch, Tensor | None]]


@dataclass(frozen=True)
class Criterion:
    """How much each channel of each group that can be cut matters, by group: shape (channels,), greater is more."""

    name: str
    rank: Callable[[Network, Samples, Task], dict[str, Tensor]]


CRITERIA: dict[str, Criterion] = {}
"""Every criterion by its name; channels are ranked by all of them :func:`together`. See :func:`register`."""


def register(criterion: Criterion) -> Criterion:
    """Make a criterion known under its name; ``criterion`` itself. Raises ``ValueError`` for a name that is taken."""
    if CRITERIA.setdefault(criterion.name, criterion) is not criterion:
        raise ValueError(f"there is a criterion {criterion.name} already")
    return criterion


def _irreplaceable(network: Network, batches: Samples, task: Task) -> dict[str, Tensor]:
    return irreplaceable(network, [x for x, _ in batches])


register(Criterion("taylor", importance))
register(Criterion("hessian", _irreplaceable))


def ranked(network: Network, batches: Samples, task: Task) -> dict[str, Tensor]:
    """How much each channel of each group matters to a network that is refitted afterwards, by all criteria as one.

    Of a large network on the first of the samples alone.
    """
    batches = first_samples(batches, Effort.of(network.graph).ranking)
    each = [criterion.rank(network, batches, task) for criterion in CRITERIA.values()]
    return {name: together(*(scores[name] for scores in each)) for name in each[0]}


def method() -> str:
    """What ranks channels, in words: what was kept of another is of no use."""
    return f"{' and '.join(CRITERIA)}, fitted"
