"""Prices in accuracy from calibration data, kept on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgesdk.compress.criteria import method, ranked
from edgesdk.compress.sensitivity import measure_sensitivity
from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.plan import Option
from edgesdk.core.serialize import digest, dumps, from_json, loads, write
from edgesdk.data.targets import joined_targets
from edgesdk.network.network import Batch, rebatch, tensors
from edgesdk.pipeline.setup import Setup, digest_of
from edgesdk.price.menu import Losses

SENSITIVITY_SAMPLES = 128
SCHEMA = 3  # of what is kept: 2 has a price by the option itself, 3 what all outputs lose
STAGE = "measuring sensitivity"


@dataclass(frozen=True)
class Sensitivity:
    """What each choice costs in accuracy, and how much each channel of each group matters."""

    losses: Losses
    scores: Mapping[str, Tensor]


def price_accuracy(setups: Sequence[Setup], space: Sequence[Mapping[str, tuple[Option, ...]]]) -> Sensitivity:
    """The prices in accuracy of every choice that is ``space`` in any of ``setups``, which are of one model."""
    setup = setups[0]
    setup.tell(STAGE, 0.0)
    network, task = setup.network, setup.task
    every = {
        layer.name: tuple(dict.fromkeys(option for candidates in space for option in candidates[layer.name]))
        for layer in setup.graph.layers
    }
    given = [t for x, y in setup.data.calibration for t in (*tensors(x), y) if isinstance(t, Tensor)]
    made_from = [
        SCHEMA, setup.graph.digest, digest_of(network.module), digest_of(given), task.identity, method(),
        {name: list(options) for name, options in every.items()},
    ]  # fmt: skip
    path = cache_folder() / "losses" / f"{digest(made_from)[:16]}.json"
    try:
        return from_json(_Kept, loads(path.read_text())).to_sensitivity()
    except (OSError, ValueError, EdgeSdkError):
        scores = ranked(network, setup.data.calibration, task)
        x = _join(setup.calibration, SENSITIVITY_SAMPLES)
        y = None if task.loss is None else joined_targets(setup.data.calibration, SENSITIVITY_SAMPLES)
        losses = measure_sensitivity(network, every, x, scores, task, lambda done, of: setup.tell(STAGE, done / of), y)
        kept = _Kept.of(losses, scores)
        write(path, dumps(kept))
        return kept.to_sensitivity()


@dataclass(frozen=True)
class _Kept:
    """``Sensitivity`` as it is kept on disk: an option is no key in JSON."""

    widths: Mapping[str, Mapping[int, float]]
    options: Mapping[str, tuple[tuple[Option, float], ...]]
    branches: Mapping[str, float]
    scores: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, losses: Losses, scores: Mapping[str, Tensor]) -> _Kept:
        options = {name: tuple(prices.items()) for name, prices in losses.options.items()}
        numbers = {name: tuple(score.tolist()) for name, score in scores.items()}
        return cls(losses.widths, options, losses.branches, numbers)

    def to_sensitivity(self) -> Sensitivity:
        options = {name: dict(prices) for name, prices in self.options.items()}
        scores = {name: torch.tensor(numbers) for name, numbers in self.scores.items()}
        return Sensitivity(Losses(self.widths, options, self.branches), scores)


def _join(batches: Sequence[Batch], most: int) -> Batch:
    """The first ``most`` samples of ``batches`` as one batch."""
    columns = [torch.cat(parts)[:most] for parts in zip(*(tensors(x) for x in batches), strict=True)]
    remaining = iter(columns)
    return rebatch(batches[0], lambda _: next(remaining))
