"""A candidate that is fitted and learns by itself, in whatever process: what it is sent, and what comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgesdk.compress.integers import Grid
from edgesdk.core.plan import Option, Plan
from edgesdk.core.processes import Progress
from edgesdk.data.data import Data
from edgesdk.data.orders import Order, set_order
from edgesdk.data.task import Task
from edgesdk.network.load import Imported
from edgesdk.network.network import Network
from edgesdk.network.placement import CPU
from edgesdk.pipeline.setup import Setup
from edgesdk.train.apply import fit, learn
from edgesdk.train.recovery import Recovery
from edgesdk.train.resumption import Kept
from edgesdk.train.trainer import Recovered


@dataclass(frozen=True)
class Shared:
    """What every candidate needs, sent to each process once: the dense ``network``, the data to learn from, and how.

    ``threads`` are those of PyTorch that each process has, ``files`` the user's own that objects in it are of.
    """

    files: Imported
    network: Network
    data: Data
    task: Task
    recovery: Recovery
    seed: int
    device: torch.device
    threads: int

    @classmethod
    def of(cls, setup: Setup, recovery: Recovery, seed: int = 0, device: torch.device = CPU) -> Shared:
        """What the model of ``setup`` learns by ``recovery``, without the samples that judge: none is judged there."""
        data = replace(setup.data, holdout=[], test=[])
        return cls(Imported.now(), setup.network, data, setup.task, recovery, seed, device, torch.get_num_threads())


@dataclass(frozen=True)
class Candidacy:
    """A candidate to be learnt for ``epochs``: its plan, the ``network`` that it makes, and that as it was ``fitted``,
    where it was. ``order`` is where the training data begin, ``fit_seconds`` and ``seconds`` what it may take. Where
    nothing is learnt blocks are fitted if it ``reconstructs``.
    """

    plan: Plan
    network: Network
    fitted: Network | None
    options: Mapping[str, Option]
    grid: Grid
    scores: Mapping[str, Tensor]
    epochs: float
    rounding: str | None
    order: Order | None
    kept_fit: Kept | None
    kept: Kept | None
    fit_seconds: float | None
    seconds: float | None
    reconstructs: bool = False


@dataclass(frozen=True)
class Learnt:
    """What a candidate came to, the network as it was ``fitted``, and whether the time ended that."""

    recovered: Recovered
    fitted: Network
    fit_was_cut: bool


def learn_apart(shared: Shared, given: Candidacy, progress: Progress) -> Learnt:
    """A candidate fitted and learnt in another process, with its share of the threads."""
    torch.set_num_threads(shared.threads)
    return learn_here(shared, given, progress)


def learn_here(shared: Shared, given: Candidacy, progress: Progress) -> Learnt:
    """A candidate fitted and learnt, as :meth:`edgesdk.pipeline.training.Training.recover` does it."""
    set_order(shared.data.train, given.order)
    begun = time.monotonic()
    fitted, was_cut = given.fitted, False
    if fitted is None:
        calibration = [x for x, _ in shared.data.calibration]
        until = None if given.fit_seconds is None else begun + given.fit_seconds
        fitted = fit(
            given.plan, shared.network, given.network, given.scores, calibration, until=until, kept=given.kept_fit,
            device=shared.device,
        )  # fmt: skip
        was_cut = until is not None and time.monotonic() >= until
    recovered = learn(
        given.plan, shared.network, fitted, given.options, shared.data, shared.task, given.epochs, shared.seed,
        lambda share, what: progress(share), grid=given.grid, recovery=shared.recovery, rounding=given.rounding,
        kept=given.kept, until=None if given.seconds is None else begun + given.seconds,
        scores=given.scores if given.reconstructs else None, device=shared.device,
    )  # fmt: skip
    return Learnt(recovered, fitted, was_cut)
