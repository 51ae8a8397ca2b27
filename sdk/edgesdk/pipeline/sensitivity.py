"""Prices in accuracy from calibration data, kept on disk as they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor

from edgesdk.compress.criteria import method, ranked
from edgesdk.compress.effort import Effort
from edgesdk.compress.sensitivity import measure_stepwise
from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.plan import Option
from edgesdk.core.serialize import digest, dumps, from_json, loads, write
from edgesdk.data.targets import joined_inputs, joined_targets
from edgesdk.network.network import tensors
from edgesdk.pipeline.deadline import SENSITIVITY
from edgesdk.pipeline.setup import Setup, digest_of
from edgesdk.price.menu import Losses
from edgesdk.train.resumption import SECONDS

SCHEMA = 5  # 2 prices options, 3 has what all outputs lose, 4 each width by itself, 5 is as thorough as Effort says
STAGE = "measuring sensitivity"


@dataclass(frozen=True)
class Sensitivity:
    """What each choice costs in accuracy, and how much each channel of each group matters."""

    losses: Losses
    scores: Mapping[str, Tensor]


def price_accuracy(
    setups: Sequence[Setup], space: Sequence[Mapping[str, tuple[Option, ...]]], structure: bool = True
) -> Sensitivity:
    """The prices in accuracy of every choice that is in the ``space`` of any of ``setups``, which are of one model.

    Of all of them, or as many as there is time for; of options alone without ``structure``.
    """
    setup = setups[0]
    setup.tell(STAGE, 0.0)
    every = {
        layer.name: tuple(dict.fromkeys(option for candidates in space for option in candidates[layer.name]))
        for layer in setup.graph.layers
    }
    path = _find_place(setup)
    kept = _Kept.read(path)
    if kept is None:
        kept = _Kept.of(Losses(), ranked(setup.network, setup.data.calibration, setup.task))
        write(path, dumps(kept))
    losses, scores, saved = kept.losses, kept.channel_scores, monotonic()
    effort = Effort.of(setup.graph)
    x = joined_inputs(setup.calibration, effort.samples)
    own = setup.task.loss is not None  # which need not be least where nothing changes
    y = joined_targets(setup.data.calibration, effort.samples) if own else None
    horizon = inf if own else effort.horizon
    for sensed in measure_stepwise(setup.network, every, x, scores, setup.task, y, losses, structure, horizon):
        losses = sensed.losses
        if sensed.done == sensed.of > 0 or monotonic() - saved > SECONDS:
            write(path, dumps(_Kept.of(losses, scores)))
            saved = monotonic()
        setup.tell(STAGE, sensed.done / max(1, sensed.of))
        if sensed.done < sensed.of and setup.deadline.is_over(SENSITIVITY):
            setup.deadline.note_cut(f"sensitivity, after {sensed.done} of {sensed.of} steps")
            write(path, dumps(_Kept.of(losses, scores)))
            break
    return Sensitivity(losses.never_less(), scores)


def keep_sensed(space: Mapping[str, tuple[Option, ...]], losses: Losses) -> dict[str, tuple[Option, ...]]:
    """Of what is in ``space``, the options with a price in accuracy, which a layer as it is always has."""
    return {
        name: tuple(option for option in options if option in losses.options[name]) for name, options in space.items()
    }


def _find_place(setup: Setup) -> Path:
    """Where the prices of a model are kept: by all that they come from."""
    given = [t for x, y in setup.data.calibration for t in (*tensors(x), y) if isinstance(t, Tensor)]
    made_from = [
        SCHEMA, setup.graph.digest, digest_of(setup.network.module), digest_of(given), setup.task.identity, method(),
    ]  # fmt: skip
    return cache_folder() / "losses" / f"{digest(made_from)[:16]}.json"


@dataclass(frozen=True)
class _Kept:
    """What is known of ``Sensitivity`` so far as it is kept on disk: an option is no key in JSON."""

    widths: Mapping[str, Mapping[int, float]]
    options: Mapping[str, tuple[tuple[Option, float], ...]]
    branches: Mapping[str, float]
    scores: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, losses: Losses, scores: Mapping[str, Tensor]) -> _Kept:
        options = {name: tuple(prices.items()) for name, prices in losses.options.items()}
        numbers = {name: tuple(score.tolist()) for name, score in scores.items()}
        return cls(losses.widths, options, losses.branches, numbers)

    @classmethod
    def read(cls, path: Path) -> _Kept | None:
        """What is kept at ``path``; ``None`` where there is nothing that can be read."""
        try:
            return from_json(cls, loads(path.read_text()))
        except (OSError, ValueError, EdgeSdkError):
            return None

    @property
    def losses(self) -> Losses:
        return Losses(self.widths, {name: dict(prices) for name, prices in self.options.items()}, self.branches)

    @property
    def channel_scores(self) -> dict[str, Tensor]:
        return {name: torch.tensor(numbers) for name, numbers in self.scores.items()}
